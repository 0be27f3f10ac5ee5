"""What a stage tells the people who watch: one JSON line an event in `<run>/progress/<stage>.jsonl`."""

from __future__ import annotations

import time
from pathlib import Path

from arlarena.trainer.diagnostics import json_line


class Progress:
    """Progress of one stage towards a known number of steps."""

    def __init__(self, run: Path, stage: str, steps: int) -> None:
        """`steps` is the most that the stage will take."""
        self._path = run / "progress" / f"{stage}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stage, self._steps = stage, steps
        self._started = time.monotonic()
        self._first: float | None = None

    def report(self, step: int, *, share: float | None = None, message: str = "", **figures: float) -> None:
        """Say that `step` is reached. Time left is judged from this process's own speed.

        `share` of the stage is done; by default that of its steps. A stage that ends by time or by experience before
        its steps are taken shows the number of steps that it will come to.
        """
        share = min(1.0, step / self._steps if share is None else share)
        if self._first is None:
            self._first = share
        gained, elapsed = share - self._first, time.monotonic() - self._started
        left = elapsed / gained * (1.0 - share) if gained > 0 else None
        steps = min(self._steps, max(step, round(step / share))) if share > 0 else self._steps
        record = {"stage": self._stage, "step": step, "steps": steps, "seconds_left": left, "message": message}
        with self._path.open("a") as file:
            file.write(json_line(record | {key: round(value, 4) for key, value in figures.items()}))
