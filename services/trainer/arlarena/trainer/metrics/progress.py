"""Progress of a stage for people who watch: one JSON record a line in `<run>/progress/<stage>.jsonl`, and the step that
goes on in `<run>/progress/<stage>-step.json`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from pathlib import Path

from arlarena.proto.atomic_files import write_text
from arlarena.trainer.metrics.diagnostics import json_line

# Between two records of the step that goes on, in seconds: a person watches them.
_WITHIN_EVERY_S = 1.0


class Progress:
    """Records of one stage. The time left is not in them: readers estimate it from `ts`, the steps and the limits."""

    def __init__(self, run: Path, stage: str, steps: int) -> None:
        """`steps` is the configured number."""
        self._path = run / "progress" / f"{stage}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stage, self._steps = stage, steps
        self._last = -math.inf
        self._within_path = self._path.with_name(f"{stage}-step.json")
        self._within = ("", 0.0)  # what the step that goes on does, and when that was written
        self._step, self._began = -1, 0.0

    def report(
        self, step: int, *, limits: Mapping[str, float] | None = None, message: str = "", **figures: float
    ) -> None:
        """Record that `step` is reached.

        `limits`: settings that may end the stage before its steps are taken, each with the share of it that is used
        up (0 to 1).
        """
        self._last = time.monotonic()
        record = {
            "ts": round(time.time(), 3),
            "stage": self._stage,
            "step": step,
            "steps": self._steps,
            "limits": {name: round(share, 6) for name, share in (limits or {}).items()},
            "message": message,
        }
        with self._path.open("a") as file:
            file.write(json_line(record | {key: round(value, 4) for key, value in figures.items()}))

    def within(self, step: int, doing: str, **counts: int) -> None:
        """Replace the record of `step`, which goes on, if it is older than a second or `step` now does something else.

        The record's `began` and `ts`: seconds since the epoch at the first call for this step, and now. A record that
        cannot be written is left out: nothing but the display needs it.
        """
        now, running = time.time(), time.monotonic()
        if step != self._step:
            self._step, self._began, self._within = step, now, ("", 0.0)
        if self._within[0] == doing and running - self._within[1] < _WITHIN_EVERY_S:
            return
        self._within = (doing, running)
        record = {"ts": round(now, 3), "began": round(self._began, 3), "step": step, "doing": doing} | counts
        with contextlib.suppress(OSError):
            write_text(self._within_path, json_line(record))

    def report_every(self, seconds: float, step: int, *, message: str = "", **figures: float) -> None:
        """`report`, unless the newest record is younger than `seconds`."""
        if time.monotonic() - self._last >= seconds:
            self.report(step, limits=None, message=message, **figures)
