"""The generated catalogue: products with near-duplicates, and goals in human phrasing."""
