"""The index of the episodes of a run: an SQLite database in a cache folder."""
