"""Writes the progress of a stage (training or cloning) for display.

`<run>/progress/<stage>.jsonl` contains one JSON record per line. `<run>/progress/<stage>-step.json` contains the record
of the current step.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from pathlib import Path

from arlarena.proto.atomic_files import write_text
from arlarena.trainer.metrics.diagnostics import json_line

# Minimum time between two records of the current step with the same activity, in seconds.
_CURRENT_EVERY_S = 1.0


class Progress:
    """Writes the records of one stage (training or cloning).

    Readers estimate the remaining time from the fields `ts`, `step`, `steps` and `limits` of a record.
    """

    def __init__(self, run: Path, stage: str, steps: int) -> None:
        """Create the folder. `steps` is the configured number of steps of the stage."""
        self._path = run / "progress" / f"{stage}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stage, self._steps = stage, steps
        self._last = -math.inf
        self._current_path = self._path.with_name(f"{stage}-step.json")
        self._current = ("", 0.0)  # the activity of the current step, and the time of its last record
        self._step, self._began = -1, 0.0

    def report(
        self, step: int, *, limits: Mapping[str, float] | None = None, message: str = "", **metrics: float
    ) -> None:
        """Append a record: the stage has reached `step`.

        `limits`: the used share (0 to 1) of each limit that can end the stage early, by the name of the limit's
        setting. `metrics` are added to the record.
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
            file.write(json_line(record | {key: round(value, 4) for key, value in metrics.items()}))

    def report_current(self, step: int, doing: str, **counts: int) -> None:
        """Replace the record of the current step.

        `doing`: the activity of the stage. As long as step and activity stay the same, the record is replaced at most
        once per second. The record has two Unix times, in seconds: `began` of the first call for this step, and `ts` of
        this call. A write error is ignored, because only the display needs the record.
        """
        now, running = time.time(), time.monotonic()
        if step != self._step:
            self._step, self._began, self._current = step, now, ("", 0.0)
        if self._current[0] == doing and running - self._current[1] < _CURRENT_EVERY_S:
            return
        self._current = (doing, running)
        record = {"ts": round(now, 3), "began": round(self._began, 3), "step": step, "doing": doing} | counts
        with contextlib.suppress(OSError):
            write_text(self._current_path, json_line(record))

    def report_every(self, seconds: float, step: int, *, message: str = "", **metrics: float) -> None:
        """Call `report` if the newest record is at least `seconds` old."""
        if time.monotonic() - self._last >= seconds:
            self.report(step, limits=None, message=message, **metrics)
