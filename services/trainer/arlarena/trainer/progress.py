"""Progress of a stage for people who watch: one JSON record a line in `<run>/progress/<stage>.jsonl`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from arlarena.trainer.diagnostics import json_line


class Progress:
    """Records of one stage. The time left is not in them: readers estimate it from `ts`, the steps and the limits."""

    def __init__(self, run: Path, stage: str, steps: int) -> None:
        """`steps` is the configured number."""
        self._path = run / "progress" / f"{stage}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stage, self._steps = stage, steps
        self._last = 0.0

    def report(
        self, step: int, *, limits: Mapping[str, float] | None = None, message: str = "", **figures: float
    ) -> None:
        """Record that `step` is reached.

        `limits`: settings that may end the stage before its steps are taken, each with the share of it that is used
        up (0 to 1).
        """
        self._last = time.time()
        record = {
            "ts": round(self._last, 3),
            "stage": self._stage,
            "step": step,
            "steps": self._steps,
            "limits": {name: round(share, 6) for name, share in (limits or {}).items()},
            "message": message,
        }
        with self._path.open("a") as file:
            file.write(json_line(record | {key: round(value, 4) for key, value in figures.items()}))

    def report_every(self, seconds: float, step: int, *, message: str = "", **figures: float) -> None:
        """`report`, unless the newest record is younger than `seconds`."""
        if time.time() - self._last >= seconds:
            self.report(step, limits=None, message=message, **figures)
