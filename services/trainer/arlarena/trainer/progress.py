"""What a stage tells the people who watch: one JSON line an event in `<run>/progress/<stage>.jsonl`."""

from __future__ import annotations

import json
import time
from pathlib import Path


class Progress:
    """Progress of one stage towards a known number of steps."""

    def __init__(self, run: Path, stage: str, steps: int) -> None:
        """`steps` is the most that the stage will take."""
        self._path = run / "progress" / f"{stage}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stage, self._steps = stage, steps
        self._started = time.monotonic()
        self._first: int | None = None

    def report(self, step: int, *, message: str = "", **figures: float) -> None:
        """Say that `step` is reached. Time left is judged from this process's own speed."""
        if self._first is None:
            self._first = step
        done = step - self._first
        elapsed = time.monotonic() - self._started
        left = elapsed / done * (self._steps - step) if done > 0 else None
        record = {"stage": self._stage, "step": step, "steps": self._steps, "seconds_left": left, "message": message}
        with self._path.open("a") as file:
            file.write(json.dumps(record | {key: round(value, 4) for key, value in figures.items()}) + "\n")
