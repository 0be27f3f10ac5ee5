"""Why training ended: `<run>/training.json`, which the console's summary and report read."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from arlarena.proto.atomic_files import write_json

# steps: all steps were taken. max_minutes, max_environment_steps: that limit of [trainer] was reached first. signal:
# the trainer was told to stop. error: the run cannot go on.
EndedBy = Literal["steps", "max_minutes", "max_environment_steps", "signal", "error"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How one process of the trainer ended. A process that was killed leaves none.

    Attributes:
        ended_by: see `EndedBy`.
        step: optimiser steps taken.
        steps: the configured number.
        limit: value of the setting `ended_by`, for the two limits.
        detail: name of the signal, or the error.
    """

    ended_by: EndedBy
    step: int
    steps: int
    limit: float | None = None
    detail: str = ""


class EndingFile:
    """The file of one run."""

    def __init__(self, run: Path) -> None:
        """`run`: the run's directory."""
        self.path = run / "training.json"

    def clear(self) -> None:
        """Training goes on: an earlier ending no longer holds."""
        self.path.unlink(missing_ok=True)

    def write(self, ending: Ending) -> None:
        """Write the file, whole or not at all. A disk that is full must not hide why the run ends."""
        with contextlib.suppress(OSError):
            write_json(self.path, {"schema": 1} | asdict(ending))
