"""Errors of the shop."""

from __future__ import annotations


class CatalogueError(ValueError):
    """A file of a catalogue is missing, damaged or invalid. The message names the file and the fix."""
