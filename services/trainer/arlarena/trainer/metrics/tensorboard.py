"""Writes the metrics of a run for TensorBoard: `tensorboard --logdir RUN/tensorboard`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from arlarena.proto.telemetry import Logger


class TensorBoardWriter:
    """Writes scalars by step. After a resume, TensorBoard discards the scalars of steps after the checkpoint.

    tensorboardX's `SummaryWriter` is not used, because its thread ends if the disk is full, and later calls then block.
    After a write error this class logs a warning and stops writing. The run continues without TensorBoard.
    """

    def __init__(self, directory: Path, step: int, log: Logger) -> None:
        """Open a new file in `directory`. TensorBoard discards earlier scalars of steps after `step`."""
        self._log = log
        self._writer: EventsWriter | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(directory / "events"), f".{os.getpid()}")
            self._writer.write_event(Event(step=step + 1, file_version="brain.Event:2"))
            self._writer.write_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))
            self._writer.flush()
        except OSError as error:
            self._disable(error)

    def add(self, metrics: Mapping[str, Any], step: int) -> None:
        """Write the values of `metrics` that are numbers."""
        if self._writer is None:
            return
        numbers = {
            name: value
            for name, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        try:
            for name, value in numbers.items():
                self._writer.write_event(Event(step=step, wall_time=time.time(), summary=scalar(name, value)))
            self._writer.flush()
        except OSError as error:
            self._disable(error)

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._disable(error)

    def _disable(self, error: OSError) -> None:
        self._writer = None
        self._log.warning("tensorboard_disabled", reason=str(error))
