"""Whether people may play, and where their games are recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PlayOptions:
    """`enabled`: whether games may be started. `folder`: where finished games are recorded."""

    enabled: bool
    folder: Path
