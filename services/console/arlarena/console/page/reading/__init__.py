"""Reads the files of a run while the run writes them. Reads have a maximum size, and follow no links."""
