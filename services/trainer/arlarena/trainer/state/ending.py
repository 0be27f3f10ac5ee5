"""Why training ended: `<run>/training.json`, which the console's summary and report read."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from arlarena.proto.atomic_files import write_json

# steps: all steps were taken. max_minutes, max_environment_steps: this limit of [trainer] was reached first. signal:
# SIGTERM or SIGINT arrived. error: the run cannot continue.
EndedBy = Literal["steps", "max_minutes", "max_environment_steps", "signal", "error"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a trainer process ended. A process killed by SIGKILL writes none.

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
        """Remove the file at the start of training, because an earlier ending is no longer valid."""
        self.path.unlink(missing_ok=True)

    def write(self, ending: Ending) -> None:
        """Write the file atomically. An error such as a full disk is ignored: it must not hide why the run ends."""
        with contextlib.suppress(OSError):
            write_json(self.path, {"schema": 1} | asdict(ending))
