"""Loads one recorded episode with its group, by its key in the index."""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec

from arlarena.console.page.index.database import RunDatabase
from arlarena.console.page.reading.records import episode_line, group_record, plain_group, step_record
from arlarena.console.page.reading.run_files import BoundedFiles
from arlarena.console.page.reading.run_summary import read_object
from arlarena.proto.records.group_records import FOLDER, GroupRecord, MemberRecord, StepRecord
from arlarena.proto.trajectory import Group, Task, Trajectory

# Maximum number of decoded records in the cache. Maximum total size of their encoded form, in bytes.
CACHED_RECORDS, CACHED_BYTES = 16, 32 << 20


@dataclass(frozen=True, slots=True)
class LoadedEpisode:
    """An episode with its group and figures. `row`: the row of the episode in the index.

    `group`: None for an evaluation. `record`: the group's figures, or None if the run recorded no figures.

    `options`: the environment's options, or None if they were not recorded. Only games of people record them.
    """

    row: dict[str, Any]
    task: Task
    trajectory: Trajectory
    group: Group | None
    record: GroupRecord | None
    final_observation: str | None
    options: dict[str, Any] | None = None

    @property
    def member(self) -> MemberRecord | None:
        """The figures of the episode, or None if they were not recorded."""
        number = self.row["member"]
        return self.record.members[number] if self.record and number < len(self.record.members) else None

    @property
    def has_tokens(self) -> bool:
        """Whether token ids are recorded."""
        return self.group is not None


class _LineOptions(msgspec.Struct):
    options: dict[str, Any] | None = None


def _options(data: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(data, type=_LineOptions).options
    except msgspec.ValidationError:  # not a table
        return None


class RecordCache:
    """Reads records of one run. Safe for several threads."""

    def __init__(self, files: BoundedFiles, database: RunDatabase) -> None:
        """Create an empty cache."""
        self._files, self._database = files, database
        self._lock = threading.Lock()
        self._cached: OrderedDict[tuple[str, int, int], tuple[Any, int]] = OrderedDict()

    def row(self, key: str) -> dict[str, Any] | None:
        """Returns the row of an episode in the index, or None. The row's field `name` is the name of its file."""
        with self._database.connect() as connection:
            connection.row_factory = sqlite3.Row
            found = connection.execute(
                "SELECT episodes.*, files.name FROM episodes JOIN files ON files.id = episodes.file WHERE key = ?",
                (key,),
            ).fetchone()
        return dict(found) if found else None

    def episode(self, key: str) -> LoadedEpisode | None:
        """Returns an episode, or None if the index has no such key.

        Raises:
            DamagedFile: the record can no longer be read.
        """
        row = self.row(key)
        return self.load(row) if row else None

    def load(self, row: dict[str, Any]) -> LoadedEpisode:
        """Returns the episode of a row (see `row`). Raises DamagedFile if the record cannot be read."""
        name, place = row["name"], (row["offset"], row["size"])
        if row["source"] == "evaluation":
            line, options = self._read(name, *place, lambda data: (episode_line(name, data), _options(data)))
            task = line.to_task(self._seed(row["label"]))
            return LoadedEpisode(row, task, line.to_trajectory(), None, None, line.final_observation, options)
        if name.startswith(f"{FOLDER}/"):
            record = self._read(name, *place, lambda data: group_record(name, data))
            group = record.group
        else:
            record, group = None, self._read(name, *place, lambda data: plain_group(name, data))
        return LoadedEpisode(row, group.task, group.trajectories[row["member"]], group, record, None)

    def head(self, step: int) -> StepRecord | None:
        """Returns the head of a recorded step (the first frame of its file), or None if there is no head.

        Raises:
            DamagedFile: the head cannot be decoded.
        """
        with self._database.connect() as connection:
            found = connection.execute("SELECT head FROM heads WHERE step = ?", (step,)).fetchone()
        return step_record(f"{FOLDER}/step-{step:06d}.records", found[0]) if found else None

    def _seed(self, label: str) -> int:
        eval_set = read_object(self._files, f"eval_sets/{label}.json").get("eval_set")
        seed = eval_set.get("seed", 0) if isinstance(eval_set, dict) else 0
        return seed if isinstance(seed, int) else 0

    def _read(self, name: str, offset: int, size: int, decode: Any) -> Any:
        key = (name, offset, size)
        with self._lock:
            if key in self._cached:
                self._cached.move_to_end(key)
                return self._cached[key][0]
        value = decode(self._files.read_at(name, offset, size))
        with self._lock:
            self._cached[key] = (value, size)
            while len(self._cached) > CACHED_RECORDS or (
                sum(bytes_ for _, bytes_ in self._cached.values()) > CACHED_BYTES and len(self._cached) > 1
            ):
                self._cached.popitem(last=False)
        return value
