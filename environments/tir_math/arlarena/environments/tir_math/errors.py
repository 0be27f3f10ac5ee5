"""Errors in problem sources."""

from __future__ import annotations


class ProblemsError(ValueError):
    """A source of problems cannot be used; the message names the place and the reason."""
