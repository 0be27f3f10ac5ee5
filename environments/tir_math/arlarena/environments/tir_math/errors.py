"""Errors in sources of problems."""

from __future__ import annotations


class ProblemsError(ValueError):
    """A source of problems cannot be used. The message names the source and the reason."""
