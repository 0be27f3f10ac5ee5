"""What is wrong with a game."""

from __future__ import annotations


class GameError(ValueError):
    """A game that cannot be read or played; the message says where, what and why."""
