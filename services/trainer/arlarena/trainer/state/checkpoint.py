"""Saves and loads checkpoints. The loaded state is bitwise equal to the saved state.

    <run>/checkpoints/step-000012/
        model.safetensors  optimizer.safetensors  state.json  manifest.json  COMMITTED

`state.json` contains `TrainerState`. A version directory (`weights/versions.py`) contains the weights that policy
servers load. If the weights file of the version directory contains the trainer's tensors unchanged, `model.safetensors`
is a hard link to this file. The weights are then written only once. If the version directory is removed, the checkpoint
stays intact.

`manifest.json` contains the sizes and BLAKE3 hashes of the two tensor files and of `state.json`. COMMITTED is written
last. A directory without COMMITTED is ignored. A second checkpoint of a step gets another name (`step-000012-1`). The
first checkpoint is removed only after the second is complete, so there is a complete checkpoint at all times.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from arlarena.proto.atomic_files import fsync_path
from arlarena.proto.served import ServedEnvironment
from arlarena.proto.telemetry import Logger
from arlarena.proto.versions.directory import COMMITTED_FILE, file_blake3
from arlarena.trainer.state.ledger import Ledger

_NAME = re.compile(r"step-(\d{6})(?:-(\d+))?")
STATE_SCHEMA = 3
MANIFEST_FILE = "manifest.json"
MODEL_FILE, OPTIMIZER_FILE, STATE_FILE = "model.safetensors", "optimizer.safetensors", "state.json"

# A function that loads weights and optimiser state, both by name.
Restore = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], None]


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used. The message gives the reason."""


@dataclass(slots=True)
class TrainerState:
    """The state of the trainer that is not a tensor.

    Attributes:
        step: number of training steps (batches of groups) so far. This is also the step of the policy's version.
        ledger: the open groups (issued, but without an outcome), and the outcomes of all other groups.
        versions: maps the digest of a version's weights to the step of the version, for all versions of this run.
        seconds: training time so far in seconds, the sum over all trainer processes of this run.
        environment_steps: number of turns in all groups that were collected for a batch, including filtered and stale
            groups.
        skipped_steps: number of consecutive steps in which every update was skipped (loss or gradient not finite).
        tasks: the environment, the group size, and the order of tasks (`TaskOrder`). Empty until `draw_order` sets it.
        served: the fields of `ServedEnvironment` for each environment that the trainer processes of this run have used,
            without duplicates.
    """

    step: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    versions: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    environment_steps: int = 0
    skipped_steps: int = 0
    tasks: dict[str, Any] = field(default_factory=dict)
    served: list[dict[str, Any]] = field(default_factory=list)

    def record_served(self, served: ServedEnvironment) -> None:
        """Add the description of the environment, unless `served` already contains the description."""
        fields = msgspec.to_builtins(served)
        if fields not in self.served:
            self.served.append(fields)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `state.json`."""
        return {
            "schema": STATE_SCHEMA,
            "step": self.step,
            "ledger": self.ledger.to_json(),
            "versions": self.versions,
            "seconds": self.seconds,
            "environment_steps": self.environment_steps,
            "skipped_steps": self.skipped_steps,
            "tasks": self.tasks,
            "served": self.served,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrainerState:
        """Return the state from the content of `state.json`.

        Raises:
            CheckpointError: a trainer with another schema wrote the file.
        """
        schema = data.get("schema")
        if schema != STATE_SCHEMA:
            age = "newer" if isinstance(schema, int) and schema > STATE_SCHEMA else "older"
            raise CheckpointError(
                f"its schema {schema} is {age} than this trainer's ({STATE_SCHEMA}): either resume the run with the "
                f"release that wrote the checkpoint, or start a new run"
            )
        return cls(
            step=data["step"],
            ledger=Ledger.from_json(data["ledger"]),
            versions=dict(data["versions"]),
            seconds=data["seconds"],
            environment_steps=data["environment_steps"],
            skipped_steps=data["skipped_steps"],
            tasks=dict(data["tasks"]),
            served=list(data.get("served", ())),
        )


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # for example, the disk is full
        raise OSError(f"{path}: {error}") from error


def _write_weights(weights: Mapping[str, Tensor], path: Path, written: Path | None) -> None:
    """Make `path` a hard link to `written`. If a hard link is not possible, write the weights to `path`.

    `written`: a file that already contains `weights`; None: there is no such file. Tied weights (one tensor with
    several names) are written once, under the first name.
    """
    if written is not None:
        with contextlib.suppress(OSError):  # no hard links on this file system, or the version directory is gone
            os.link(written, path)
            return
    names = {id(weights[name]): name for name in reversed(list(weights))}
    _write({name: weights[name].contiguous().clone() for name in names.values()}, path)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, directory: Path, keep: int) -> None:
        """Store the arguments. `keep`: number of newest checkpoints that are kept."""
        self.directory = directory
        self._keep = keep
        self._damaged: list[Path] = []

    def save(
        self,
        state: TrainerState,
        weights: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        written: Path | None = None,
    ) -> Path:
        """Write and fsync a checkpoint of `state.step`. Then remove old checkpoints and other checkpoints of this step.

        `written`: a weights file of a version directory that already contains `weights`; None: there is no such file.
        Returns the checkpoint's directory.

        Raises:
            OSError: a file cannot be written.
        """
        partial = self.directory / f".partial-{state.step:06d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_weights(weights, partial / MODEL_FILE, written)
        _write(dict(optimizer), partial / OPTIMIZER_FILE)
        (partial / STATE_FILE).write_text(json.dumps(state.to_json(), allow_nan=False))
        files = {file.name: {"size": file.stat().st_size, "blake3": file_blake3(file)} for file in partial.iterdir()}
        (partial / MANIFEST_FILE).write_text(json.dumps({"files": files}))
        for file in partial.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        same_step = [path for path in self._directories() if _position(path)[0] == state.step]
        number = max((_position(path)[1] + 1 for path in same_step), default=0)
        target = self.directory / (f"step-{state.step:06d}" + (f"-{number}" if number else ""))
        partial.rename(target)
        (target / COMMITTED_FILE).touch()
        fsync_path(target)
        fsync_path(self.directory)
        self._remove_old(target, same_step)
        return target

    def _remove_old(self, target: Path, same_step: list[Path]) -> None:
        """Remove the checkpoints `same_step`, the damaged checkpoints, and all intact ones except the `keep` newest.

        `same_step`: the earlier checkpoints of the step of `target`. `target`: the checkpoint that was just saved; it
        is never removed.
        """
        intact = [path for path in self.committed() if path not in (*self._damaged, *same_step)]
        for old in {*same_step, *self._damaged, *intact[: -self._keep]} - {target}:
            (old / COMMITTED_FILE).unlink(missing_ok=True)
            shutil.rmtree(old, ignore_errors=True)
        self._damaged = []

    def committed(self) -> list[Path]:
        """Return the directories of complete checkpoints, oldest first."""
        return [path for path in self._directories() if (path / COMMITTED_FILE).exists()]

    def load_latest(self, restore: Restore, log: Logger) -> TrainerState | None:
        """Load the newest intact checkpoint. Returns its state; None if the run has no checkpoint.

        `restore` gets the weights and the optimiser state. If a file is missing or does not match its checksum, the
        checkpoint is skipped. A warning in the log names the skipped checkpoint and the checkpoint that is used.

        Raises:
            CheckpointError: all checkpoints are damaged, or the newest intact checkpoint cannot be loaded (for example,
                because it does not fit the model).
        """
        damaged: dict[Path, str] = {}
        for path in reversed(self.committed()):
            damage = damage_reason(path)
            if damage is None:
                for other, reason in damaged.items():
                    log.warning("checkpoint_damaged", damaged=str(other), reason=reason, used=str(path))
                self._damaged = list(damaged)
                return self._load(path, restore)
            damaged[path] = damage
        if damaged:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in damaged.items())
            raise CheckpointError(f"all checkpoints of the run are damaged ({reasons}): start a new run")
        return None

    def _load(self, path: Path, restore: Restore) -> TrainerState:
        try:
            state = TrainerState.from_json(json.loads((path / STATE_FILE).read_text()))
            restore(load_file(path / MODEL_FILE), load_file(path / OPTIMIZER_FILE))
        except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
            raise CheckpointError(f"checkpoint {path} cannot be loaded: {error}") from error
        return state

    def _directories(self) -> list[Path]:
        directories = [path for path in self.directory.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(directories, key=_position)


def _position(path: Path) -> tuple[int, int]:
    """Return the step and the number of a checkpoint, from the name of its directory: (12, 1) for step-000012-1."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def damage_reason(path: Path) -> str | None:
    """Return how the files of a checkpoint differ from the manifest; None if all files are intact."""
    try:
        files = json.loads((path / MANIFEST_FILE).read_text())["files"]
        entries = {
            name: (files[name]["size"], files[name]["blake3"]) for name in (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE)
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{MANIFEST_FILE} is missing or cannot be read ({type(error).__name__}: {error})"
    for name, (size, digest) in entries.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size!r}"
        if file_blake3(file) != digest:
            return f"{name} does not match its checksum"
    return None
