"""Full-text search: tokens, a memory-mapped index, and BM25."""
