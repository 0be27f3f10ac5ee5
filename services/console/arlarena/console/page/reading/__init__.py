"""Reads the files of a run: bounded, without following links, while they grow."""
