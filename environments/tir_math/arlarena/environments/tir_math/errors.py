"""What is wrong with problems."""

from __future__ import annotations


class ProblemsError(ValueError):
    """Problems that cannot be had; the message says where, what and why."""
