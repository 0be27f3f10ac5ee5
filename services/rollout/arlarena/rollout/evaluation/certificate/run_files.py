"""Reads the files of a training run. The files are never changed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from arlarena.proto.config import load_part
from arlarena.proto.shared_settings import EnvironmentKeys
from arlarena.proto.task_order import TaskOrder, group_id
from arlarena.proto.trajectory import Group, SchemaError, Task, read_groups
from arlarena.proto.versions.directory import COMMITTED_FILE
from arlarena.rollout.evaluation.certificate.recorded import RecordedEpisode, evaluation_episodes, group_episodes
from arlarena.rollout.evaluation.errors import EvaluationError

# Two files with demonstrations for behaviour cloning: the first for training, the second for early stopping.
CLONING_FILES = ("demonstrations.msgpack", "validation.msgpack")


class RepeatedKeys(ValueError):
    """An object in a JSON file has a key twice. JSON allows this, but `json.loads` keeps only the last value."""


def _strict_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if repeated:
        raise RepeatedKeys(", ".join(repeated))
    return dict(pairs)


@dataclass(frozen=True, slots=True)
class EvaluationFile:
    """An evaluation of the run: eval_sets/LABEL.json. The recorded episodes are in episodes/LABEL.jsonl."""

    label: str
    result: dict[str, Any]
    path: Path

    @property
    def tasks(self) -> list[Task]:
        """All tasks of the evaluation, including tasks without a finished attempt."""
        chosen = self.result["eval_set"]
        indices = range(chosen["first"], chosen["first"] + chosen["n"])
        return [Task(self.result["environment"], chosen["split"], index, chosen["seed"]) for index in indices]

    @property
    def played(self) -> list[Task]:
        """The task of each finished attempt, in the order of the result. A task occurs once per attempt."""
        chosen = self.result["eval_set"]
        found = self.result.get("results", ())
        return [Task(self.result["environment"], chosen["split"], row[0], chosen["seed"]) for row in found]


@dataclass
class RunFiles:
    """The files of one run.

    `unreadable`: the reason why a file could not be read, by the path of the file within the run. The caller must
    report these files.
    """

    path: Path
    unreadable: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.path / "run.json").is_file() or not self.config.is_file():
            raise EvaluationError(
                f"{self.path} is not the directory of a training run: it must contain run.json and config.toml"
            )

    @property
    def config(self) -> Path:
        """The configuration of the run."""
        return self.path / "config.toml"

    @cached_property
    def environment(self) -> EnvironmentKeys:
        """The environment and its options."""
        return load_part(self.config, "environment", EnvironmentKeys)

    def relative(self, path: Path) -> str:
        """Returns the path of a file within the run."""
        return path.relative_to(self.path).as_posix()

    @cached_property
    def evaluations(self) -> list[EvaluationFile]:
        """The evaluations of the run, sorted by label."""
        found = []
        for path in sorted((self.path / "eval_sets").glob("*.json")):
            try:
                found.append(
                    EvaluationFile(path.stem, msgspec.json.decode(path.read_bytes(), type=dict[str, Any]), path)
                )
            except (msgspec.MsgspecError, OSError) as error:
                self.unreadable[self.relative(path)] = str(error)
        return found

    @cached_property
    def cloning(self) -> dict[str, list[Group]]:
        """The demonstrations, by the name of their file. Empty if the run has no behaviour cloning."""
        paths = (self.path / name for name in CLONING_FILES)
        return {path.name: self._groups(path) for path in paths if path.is_file()}

    @cached_property
    def recorded(self) -> dict[str, list[Group]]:
        """The recorded batches, by file: groups/step-000020.msgpack has the batch of step 20."""
        return {self.relative(path): self._groups(path) for path in sorted((self.path / "groups").glob("*.msgpack"))}

    def _groups(self, path: Path) -> list[Group]:
        try:
            return read_groups(path)
        except (SchemaError, OSError) as error:
            self.unreadable[self.relative(path)] = str(error)
            return []

    @cached_property
    def checkpoints(self) -> list[Path]:
        """The directories of complete checkpoints, oldest first."""
        found = (path.parent for path in (self.path / "checkpoints").glob(f"step-*/{COMMITTED_FILE}"))
        return sorted(found, key=lambda path: [int(part) for part in path.name.split("-")[1:]])

    @cached_property
    def versions(self) -> list[Path]:
        """The complete version directories, oldest first."""
        return sorted(path.parent for path in (self.path / "weights").glob(f"v*/{COMMITTED_FILE}"))

    def state(self, checkpoint: Path) -> dict[str, Any]:
        """Returns state.json of a checkpoint.

        Raises:
            RepeatedKeys: a key occurs twice in an object of the file.
            ValueError, OSError: the file cannot be read.
        """
        text = (checkpoint / "state.json").read_text()
        state: dict[str, Any] = json.loads(text, object_pairs_hook=_strict_object)
        return state

    @cached_property
    def newest_state(self) -> dict[str, Any] | None:
        """The content of state.json of the newest checkpoint, or None.

        It is None if the run has no checkpoint, or if the file cannot be read. If an object of the file has a key
        twice, the last value counts.
        """
        if not self.checkpoints:
            return None
        path = self.checkpoints[-1] / "state.json"
        try:
            state: dict[str, Any] = json.loads(path.read_text())
            if missing := {"step", "ledger", "versions", "tasks"} - state.keys():
                raise ValueError(f"the key {min(missing)} is missing")
        except (OSError, ValueError, AttributeError) as error:
            self.unreadable[self.relative(path)] = f"{type(error).__name__}: {error}"
            return None
        return state

    def issued_tasks(self) -> dict[str, Task]:
        """Returns the task of every issued group, by group id.

        The tasks are computed from the task order in the newest checkpoint.
        """
        state = self.newest_state
        if not state or not state["tasks"]:
            return {}
        drawn = dict(state["tasks"])
        environment, _ = drawn.pop("environment"), drawn.pop("group_size")
        order = TaskOrder(**drawn)
        numbers = range(state["ledger"]["next_index"])
        return {group_id(n): Task(environment, order.split, order.index(n), order.seed) for n in numbers}

    def episodes(self) -> list[RecordedEpisode]:
        """Returns all recorded episodes of behaviour cloning, training and evaluation."""
        found: list[RecordedEpisode] = []
        for source, groups in {**self.cloning, **self.recorded}.items():
            found += group_episodes(source, groups)
        for evaluation in self.evaluations:
            path = self.path / "episodes" / f"{evaluation.label}.jsonl"
            if not path.is_file():
                continue
            environment, seed = evaluation.result["environment"], evaluation.result["eval_set"]["seed"]
            try:
                found += evaluation_episodes(self.relative(path), path, environment, seed)
            except (msgspec.MsgspecError, KeyError, ValueError, OSError) as error:
                self.unreadable[self.relative(path)] = f"{type(error).__name__}: {error}"
        return found
