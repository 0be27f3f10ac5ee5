"""Reads the metrics of a run (`metrics.jsonl`). The file may grow at the same time."""

from __future__ import annotations

import os
import threading
from array import array
from bisect import bisect_left
from math import isfinite, nan

import msgspec
import numpy as np
import numpy.typing as npt

from arlarena.console.page.reading.run_files import BoundedFiles, DamagedFile

NAME = "metrics.jsonl"
# Maximum length of a line in bytes. Longer lines are skipped. Normal lines have about 3 kB.
LINE_BYTES = 1 << 20
# These limits bound the memory. 200,000 steps with 80 metrics take 128 MB.
MAX_STEPS, MAX_METRICS, MAX_VALUES = 200_000, 400, 20_000_000
# Maximum number of bytes that `refresh` reads. It limits the duration of a request. If the file is longer, `complete`
# is False until further calls have read the rest.
READ_BYTES = 64 << 20

Floats = npt.NDArray[np.float64]


class MetricsTable:
    """A table of the metrics: one row for each step, one column for each metric. Safe for several threads."""

    def __init__(self, files: BoundedFiles) -> None:
        """Create an empty table. `refresh` reads the file."""
        self._files = files
        self._lock = threading.Lock()
        self._clear(0)

    def _clear(self, inode: int) -> None:
        self._inode, self._offset, self._tail = inode, 0, b""
        self._steps = array("q")
        self._columns: dict[str, array[float]] = {}
        self.complete = True

    def refresh(self) -> None:
        """Read the new lines of `metrics.jsonl`. If a resumed run has replaced the file, read it from the start."""
        with self._lock:
            try:
                file = self._files.open(NAME)
            except DamagedFile:
                file = None
            if file is None:
                self._clear(0)
                return
            with file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._offset:
                    self._clear(found.st_ino)
                file.seek(self._offset)
                data = file.read(READ_BYTES)
                self.complete = self._offset + len(data) >= found.st_size
            end = data.rfind(b"\n") + 1
            if not end and len(data) > LINE_BYTES:  # one huge line: skip it
                end = len(data)
            self._offset += end
            for line in data[:end].splitlines():
                self._add(line)

    def _add(self, line: bytes) -> None:
        if len(line) > LINE_BYTES or len(self._steps) >= MAX_STEPS:
            return
        try:
            record = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
            step = msgspec.json.decode(record.pop("step"), type=int)
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
            return
        self._drop_from(step)
        row = len(self._steps)
        self._steps.append(step)
        for name, raw in record.items():
            if name not in self._columns:
                if len(self._columns) >= MAX_METRICS or (len(self._columns) + 1) * row > MAX_VALUES:
                    continue
                self._columns[name] = array("d", [nan]) * row
            self._columns[name].append(_number(raw))
        for column in self._columns.values():
            if len(column) <= row:
                column.append(nan)

    def _drop_from(self, step: int) -> None:
        """Remove the rows of `step` and of later steps. A resumed run repeats these steps."""
        if self._steps and step <= self._steps[-1]:
            first = bisect_left(self._steps, step)
            del self._steps[first:]
            for column in self._columns.values():
                del column[first:]

    def names(self) -> list[str]:
        """Returns the names of the metrics, in the order of the file."""
        with self._lock:
            return list(self._columns)

    @property
    def last_step(self) -> int:
        """The newest step; 0 if there is no step."""
        with self._lock:
            return self._steps[-1] if self._steps else 0

    def steps(self) -> Floats:
        """Returns the steps, in ascending order."""
        with self._lock:
            return np.array(self._steps, dtype=np.float64)

    def column(self, name: str) -> Floats | None:
        """Returns the values of the metric `name`, one per step, or None if the run has no such metric.

        A value that was not recorded is NaN.
        """
        with self._lock:
            found = self._columns.get(name)
            return None if found is None else np.array(found, dtype=np.float64)

    def last(self, name: str) -> float | None:
        """Returns the value of a metric at the newest step, or None if it was not recorded."""
        with self._lock:
            column = self._columns.get(name)
            value = column[-1] if column else nan
        return value if isfinite(value) else None

    def at(self, step: int | None, name: str) -> float | None:
        """Returns the value of the metric `name` at `step`, or None if it was not recorded."""
        with self._lock:
            row = bisect_left(self._steps, step) if step is not None else len(self._steps)
            column = self._columns.get(name)
            if column is None or row >= len(self._steps) or self._steps[row] != step:
                return None
            value = column[row]
        return value if isfinite(value) else None


def _number(raw: msgspec.Raw) -> float:
    try:
        value = msgspec.json.decode(raw, type=float | None)
        return nan if value is None else value
    except (msgspec.MsgspecError, OverflowError):
        return nan


def thin(x: Floats, y: Floats, points: int) -> tuple[Floats, Floats, Floats | None, Floats | None]:
    """Merge neighbouring values into at most `points` intervals. Returns (x, mean, minimum, maximum).

    Each result has one value per interval. `x` is the last x of the interval. `minimum` and `maximum` are None if
    nothing was merged. Values of y that are not finite are ignored. The results of an interval without finite values
    are NaN.
    """
    if len(x) <= points:
        return x, y, None, None
    starts = np.unique(np.linspace(0, len(x), points, endpoint=False).astype(np.int64))
    ends = np.append(starts[1:], len(x))
    finite = np.isfinite(y)
    counts = np.add.reduceat(finite, starts)
    sums = np.add.reduceat(np.where(finite, y, 0.0), starts)
    mean = np.where(counts > 0, sums / np.maximum(counts, 1), nan)
    low = np.minimum.reduceat(np.where(finite, y, np.inf), starts)
    high = np.maximum.reduceat(np.where(finite, y, -np.inf), starts)
    empty = counts == 0
    low[empty] = high[empty] = nan
    return x[ends - 1], mean, low, high
