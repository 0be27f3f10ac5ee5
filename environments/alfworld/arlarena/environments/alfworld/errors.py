"""Errors in games."""

from __future__ import annotations


class GameError(ValueError):
    """A game cannot be read or played. The message names the part of the game and the reason."""
