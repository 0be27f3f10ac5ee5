"""Checkpoints that resume bitwise: weights, optimiser state, lineage and the version history, without pickle.

    <run>/checkpoints/step-000012/
        model.safetensors  optimizer.safetensors  state.json  COMMITTED

A checkpoint counts once COMMITTED exists, which is written last; the directory is moved into place before that, whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from arlarena.proto.weights import COMMITTED_FILE
from arlarena.trainer.capacity import Ledger

_NAME = re.compile(r"step-(\d{6})$")
STATE_SCHEMA = 1

# Takes weights and optimiser state by name.
Restore = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], None]


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message names its directory."""


@dataclass(slots=True)
class TrainerState:
    """What is not a tensor.

    Attributes:
        step: optimiser steps (batches of groups) taken so far; the policy's version.
        ledger: lineage and capacity.
        versions: step by digest of every version pushed or about to be, this run's history.
        seconds: time spent training so far, all incarnations together.
        environment_steps: turns played in all groups that were received.
    """

    step: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    versions: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    environment_steps: int = 0

    def to_json(self) -> dict[str, Any]:
        """As `state.json` holds it."""
        return {
            "schema": STATE_SCHEMA,
            "step": self.step,
            "ledger": self.ledger.to_json(),
            "versions": self.versions,
            "seconds": self.seconds,
            "environment_steps": self.environment_steps,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrainerState:
        """The inverse of `to_json`.

        Raises:
            CheckpointError: a newer version of the trainer wrote it.
        """
        if data["schema"] > STATE_SCHEMA:
            raise CheckpointError(f"checkpoint schema {data['schema']} is newer than this trainer ({STATE_SCHEMA})")
        return cls(
            step=data["step"],
            ledger=Ledger.from_json(data["ledger"]),
            versions=dict(data["versions"]),
            seconds=data["seconds"],
            environment_steps=data["environment_steps"],
        )


def sync_directory(path: Path) -> None:
    """Make the names in `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, directory: Path, keep: int) -> None:
        """`keep` of the newest are kept."""
        self.directory = directory
        self._keep = keep

    def save(self, state: TrainerState, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> Path:
        """Write a checkpoint of `state.step` and forget old ones."""
        target = self.directory / f"step-{state.step:06d}"
        partial = self.directory / f".partial-{state.step:06d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        # Tied weights are one tensor with two names, which safetensors refuses.
        save_file({name: value.contiguous().clone() for name, value in weights.items()}, partial / "model.safetensors")
        save_file(dict(optimizer), partial / "optimizer.safetensors")
        (partial / "state.json").write_text(json.dumps(state.to_json()))
        for file in partial.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        (target / COMMITTED_FILE).touch()
        sync_directory(target)
        sync_directory(self.directory)
        for old in self.committed()[: -self._keep]:
            (old / COMMITTED_FILE).unlink()
            shutil.rmtree(old)
        return target

    def committed(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        found = [path for path in self.directory.iterdir() if _NAME.search(path.name)]
        return sorted(path for path in found if (path / COMMITTED_FILE).exists())

    def load_latest(self, restore: Restore) -> TrainerState | None:
        """Hand the newest complete checkpoint's weights and optimiser to `restore`; None if there is none.

        Raises:
            CheckpointError: it does not fit the model.
        """
        committed = self.committed()
        if not committed:
            return None
        newest = committed[-1]
        try:
            restore(load_file(newest / "model.safetensors"), load_file(newest / "optimizer.safetensors"))
            return TrainerState.from_json(json.loads((newest / "state.json").read_text()))
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            raise CheckpointError(f"{newest} cannot be resumed from: {error}") from error
