"""Errors in games."""

from __future__ import annotations


class GameError(ValueError):
    """A game cannot be read or played; the message names the place and the reason."""
