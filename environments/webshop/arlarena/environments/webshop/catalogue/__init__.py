"""Catalogues on disk: reading the official files, building the memory-mapped folder, and reading it."""
