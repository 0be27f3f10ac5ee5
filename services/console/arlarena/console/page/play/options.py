"""The options of games: whether people may play, and the folder for the records of their games."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PlayOptions:
    """`enabled`: whether people may start games. `folder`: the folder for the records of finished games."""

    enabled: bool
    folder: Path
