"""JSON objects of the groups of a step, and of the behaviour view."""

from __future__ import annotations

import sqlite3
from itertools import groupby
from typing import Any

import msgspec
import numpy as np

from arlarena.console.page.index.database import RunDatabase
from arlarena.console.page.index.queries import MAX_LIMIT
from arlarena.console.page.reading.run_files import BoundedFiles, DamagedFile
from arlarena.console.page.views.episode import floats, mean
from arlarena.console.page.views.records import LoadedEpisode, RecordCache
from arlarena.proto.records.group_records import FOLDER, INSIDE, MemberRecord

# Maximum numbers: transitions in a list, steps in `flows`, and bytes that are read from flows.jsonl.
MAX_PAIRS, MAX_FLOW_STEPS, FLOWS_BYTES = 200, 200, 64 << 20


def groups_view(database: RunDatabase, records: RecordCache, step: int) -> dict[str, Any] | None:
    """Returns the object of `GET …/steps/{step}/groups`, or None if no group of the step is recorded.

    Raises:
        DamagedFile: a record cannot be read.
    """
    with database.connect() as connection:
        connection.row_factory = sqlite3.Row
        rows = [
            dict(row)
            for row in connection.execute(
                "SELECT episodes.*, files.name FROM episodes JOIN files ON files.id = episodes.file "
                "WHERE step = ? ORDER BY files.name, number, member",
                (step,),
            )
        ]
    if not rows:
        return None
    head = records.head(step)
    groups = [
        _group(records, list(members)) for _, members in groupby(rows, key=lambda row: (row["name"], row["number"]))
    ]
    return {"step": step, "head": msgspec.to_builtins(head) if head else None, "groups": groups[:MAX_LIMIT]}


def _group(records: RecordCache, rows: list[dict[str, Any]]) -> dict[str, Any]:
    loaded = [records.load(row) for row in rows]
    first = loaded[0]
    return {
        "id": rows[0]["group_id"],
        "status": rows[0]["group_status"],
        "reason": first.record.reason if first.record else None,
        "update": first.record.update if first.record else None,
        "task": rows[0]["task"],
        "kind": rows[0]["kind"],
        "success": sum(bool(row["success"]) for row in rows),
        "size": len(rows),
        "members": [_member(each) for each in loaded],
    }


def _member(loaded: LoadedEpisode) -> dict[str, Any]:
    row, member = loaded.row, loaded.member
    shown = ("member", "return", "score", "turns", "invalid", "status", "tokens", "advantage")
    return (
        {"episode": row["key"], "success": bool(row["success"])}
        | {name: row[name] for name in shown}
        | {
            "reason": member.reason if member else None,
            "age": member.age if member else None,
            "episode_advantages": list(member.episode_advantages) if member else None,
            "step_advantages": list(member.step_advantages) if member else None,
            "advantages": list(member.advantages) if member else None,
        }
        | _ratios(member)
    )


def _ratios(member: MemberRecord | None) -> dict[str, Any]:
    if member is None or not member.turns:
        return {"mean_ratio": None, "outside": None, "kept": None}
    clip = np.frombuffer(b"".join(turn.clip for turn in member.turns), dtype=np.uint8)
    return {
        "mean_ratio": mean(floats(b"".join(turn.ratios for turn in member.turns))),
        "outside": float((clip != INSIDE).mean()) if len(clip) else 0.0,
        "kept": all(turn.kept for turn in member.turns),
    }


def behaviour_view(files: BoundedFiles, database: RunDatabase) -> dict[str, Any]:
    """Returns the object of `GET …/behaviour`."""
    with database.connect() as connection:
        labels = [label for (label,) in connection.execute(
            "SELECT label FROM episodes WHERE source = 'evaluation' GROUP BY label ORDER BY min(id)")]  # fmt: skip
        labels.sort(key=lambda label: {"before": 0, "after": 2}.get(label, 1))
        steps = [step for (step,) in connection.execute(
            "SELECT DISTINCT step FROM episodes WHERE step IS NOT NULL ORDER BY step")]  # fmt: skip
        sides = [
            _side(connection, f"evaluation {label}", "source = 'evaluation' AND label = ?", [label], label=label)
            for label in labels
        ]
        third = max(1, len(steps) // 3)
        for name, chosen in (("first steps", steps[:third]), ("last steps", steps[-third:])):
            if chosen:
                condition = "source = 'training' AND step BETWEEN ? AND ?"
                span = [chosen[0], chosen[-1]]
                sides.append(_side(connection, f"training, {name}", condition, span, steps=span))
    return {"sides": sides, "flows": _flows(files)}


def _side(
    connection: sqlite3.Connection,
    name: str,
    condition: str,
    values: list[object],
    *,
    label: str | None = None,
    steps: list[int] | None = None,
) -> dict[str, Any]:
    outcomes: dict[str, Any] = {}
    # A step may have the same groups in `groups/` and in `records/`. Each transition is counted only once.
    once = (
        f"(source != 'training' OR file IN (SELECT id FROM files WHERE name LIKE '{FOLDER}/%') OR step NOT IN "
        "(SELECT step FROM heads))"
    )
    for outcome, success in (("success", 1), ("failure", 0)):
        given = [*values, success]
        (episodes,) = connection.execute(
            f"SELECT count(*) FROM episodes WHERE {condition} AND success = ?", given
        ).fetchone()
        pairs = connection.execute(
            f"SELECT pair, sum(count) FROM transitions WHERE {condition} AND success = ? AND {once} "
            f"GROUP BY pair ORDER BY 2 DESC LIMIT {MAX_PAIRS}",
            given,
        ).fetchall()
        outcomes[outcome] = {"episodes": episodes, "transitions": dict(pairs)}
    source = "evaluation" if label is not None else "training"
    return {"name": name, "source": source, "label": label, "steps": steps} | outcomes


class _Flow(msgspec.Struct):
    step: int
    success: dict[str, float] = {}
    failure: dict[str, float] = {}


def _flows(files: BoundedFiles) -> list[dict[str, Any]]:
    try:
        data = files.tail("flows.jsonl", FLOWS_BYTES)
    except DamagedFile:
        return []
    found: dict[int, _Flow] = {}
    for line in data.splitlines():
        try:
            flow = msgspec.json.decode(line, type=_Flow)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        found[flow.step] = flow
    steps = sorted(found)
    chosen = steps if len(steps) <= MAX_FLOW_STEPS else [
        steps[round(place)] for place in np.linspace(0, len(steps) - 1, MAX_FLOW_STEPS)
    ]  # fmt: skip
    return [msgspec.to_builtins(found[step]) for step in chosen]
