"""Catalogues on disk: read the official files, build a memory-mapped folder, read the folder."""
