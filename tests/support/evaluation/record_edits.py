"""Edits of recorded groups and JSON files, with which tests plant faults."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from arlarena.proto.trajectory import Group, read_groups, write_groups


def change_groups(path: Path, change: Callable[[list[Group]], list[Group]]) -> None:
    write_groups(path, change(read_groups(path)))


def with_first_turn(group: Group, **changes: Any) -> Group:
    """The group with changed fields of the first turn of its first member."""
    first, *others = group.trajectories
    turns = (msgspec.structs.replace(first.turns[0], **changes), *first.turns[1:])
    return msgspec.structs.replace(group, trajectories=(msgspec.structs.replace(first, turns=turns), *others))


def edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))
