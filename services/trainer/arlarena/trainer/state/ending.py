"""Writes the reason why training ended to `<run>/training.json`. The console's summary and report read this file."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from arlarena.proto.atomic_files import write_json

# steps: all steps were taken. max_minutes, max_environment_steps: this limit was reached before all steps were taken.
# signal: SIGTERM or SIGINT arrived. error: the run cannot continue.
EndedBy = Literal["steps", "max_minutes", "max_environment_steps", "signal", "error"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a trainer process ended. A process that is killed by SIGKILL writes no file.

    Attributes:
        ended_by: the kind of reason (`EndedBy`).
        step: number of training steps taken.
        steps: the configured number of steps.
        limit: if `ended_by` is `max_minutes` or `max_environment_steps`, the value of that setting.
        detail: name of the signal, or message of the error.
    """

    ended_by: EndedBy
    step: int
    steps: int
    limit: float | None = None
    detail: str = ""


class EndingFile:
    """The file `training.json` of one run."""

    def __init__(self, run: Path) -> None:
        """Store the path of the file. `run`: the run's directory."""
        self.path = run / "training.json"

    def clear(self) -> None:
        """Remove the file at the start of training, because an earlier ending is no longer valid."""
        self.path.unlink(missing_ok=True)

    def write(self, ending: Ending) -> None:
        """Write the file atomically. An OSError is ignored, because it must not replace the reason why the run ends."""
        with contextlib.suppress(OSError):
            write_json(self.path, {"schema": 1} | asdict(ending))
