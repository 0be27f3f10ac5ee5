"""The figures of a run for TensorBoard: `tensorboard --logdir RUN/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter


class Board:
    """Scalars by step. A resumed run takes back what its checkpoint does not cover."""

    def __init__(self, directory: Path, step: int) -> None:
        """`step`: the last one that stays."""
        self._writer = SummaryWriter(str(directory), purge_step=step + 1, flush_secs=10)

    def add(self, figures: Mapping[str, Any], step: int) -> None:
        """Write the numbers among `figures`."""
        for name, value in figures.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still held back."""
        self._writer.close()
