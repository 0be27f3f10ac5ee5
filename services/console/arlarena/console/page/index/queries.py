"""Queries of the index of a run: lists of episodes, values for filters, recorded steps."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Mapping
from typing import Any

from arlarena.console.page.index.database import RunDatabase

MAX_LIMIT = 500
SORTS = {
    "position": "episodes.id", "step": "episodes.step", "return": "episodes.return", "turns": "episodes.turns",
    "invalid": "episodes.invalid", "tokens": "episodes.tokens",
}  # fmt: skip
TEXTS = {"source": "source", "label": "label", "group": "group_id", "kind": "kind"}
RANGES = {"step": "step", "turns": "turns", "invalid": "invalid", "return": "return"}
QUERY_CHARS = 200
MAX_KINDS = 200
_WORD = re.compile(r'"([^"]+)"|(\S+)')


class BadQuery(ValueError):
    """A parameter is unknown or has a wrong value. The message contains its name."""


def where(parameters: Mapping[str, str]) -> tuple[str, list[object]]:
    """Returns an SQL condition and its values for the filters of `GET …/episodes`.

    Raises:
        BadQuery: a value is not valid.
    """
    parts, values = ["1"], list[object]()
    for name, column in TEXTS.items():
        if name in parameters:
            parts.append(f"episodes.{column} = ?")
            values.append(parameters[name])
    for name, column in RANGES.items():
        for suffix, sign in (("_min", ">="), ("_max", "<=")):
            if name + suffix in parameters:
                parts.append(f"episodes.{column} {sign} ?")
                values.append(number(parameters, name + suffix))
    if (success := parameters.get("success")) is not None:
        if success not in ("true", "false"):
            raise BadQuery("success must be true or false")
        parts.append("episodes.success = ?")
        values.append(success == "true")
    if (status := parameters.get("status")) is not None:
        parts.append("(episodes.status = ? OR episodes.group_status = ?)")
        values += [status, status]
    if (task := parameters.get("task")) is not None:
        parts.append("instr(lower(episodes.task), lower(?)) > 0")
        values.append(task)
    if (words := match_expression(parameters.get("q", ""))) is not None:
        parts.append("episodes.id IN (SELECT rowid FROM words WHERE words MATCH ?)")
        values.append(words)
    return " AND ".join(parts), values


def number(parameters: Mapping[str, str], name: str) -> float:
    """Returns a parameter as a number. Raises BadQuery if it is not a number."""
    try:
        return float(parameters[name])
    except ValueError as error:
        raise BadQuery(f"{name} must be a number") from error


def integer(parameters: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """Returns a parameter as an integer. Raises BadQuery if it is not an integer in [low, high]."""
    text = parameters.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"-?\d{1,15}", text) or not low <= int(text) <= high:
        raise BadQuery(f"{name} must be an integer from {low} to {high}")
    return int(text)


def match_expression(text: str) -> str | None:
    """Returns an FTS5 expression that searches for the words of `text`, or None if `text` has no word.

    Raises:
        BadQuery: the text is too long.
    """
    if len(text) > QUERY_CHARS:
        raise BadQuery(f"q has {len(text)} characters; the maximum is {QUERY_CHARS}")
    parts = []
    for phrase, word in _WORD.findall(text.replace("\0", " ")):
        plain = (phrase or word).replace('"', "").removesuffix("*" if word else "")
        if any(character.isalnum() for character in plain):
            parts.append(f'"{plain}"' + ("*" if word.endswith("*") else ""))
    return " ".join(parts) or None


def episode_object(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an episode as an object for lists. `row`: its row in the table `episodes`."""
    same = ("source", "label", "step", "member", "task", "environment", "kind", "score", "return", "turns", "invalid",
            "tokens", "status", "group_status", "outcome", "advantage", "first_action")  # fmt: skip
    return (
        {"id": row["key"]}
        | {name: row[name] for name in same}
        | {"group": row["group_id"], "success": bool(row["success"]), "playable": bool(row["playable"])}
    )


def episodes(database: RunDatabase, parameters: Mapping[str, str]) -> dict[str, Any]:
    """Returns the part of the list of episodes that `parameters` select. Raises BadQuery if a parameter is invalid."""
    condition, values = where(parameters)
    sort, order = parameters.get("sort", "position"), parameters.get("order", "asc")
    if sort not in SORTS:
        raise BadQuery(f"sort must be one of {', '.join(SORTS)}")
    if order not in ("asc", "desc"):
        raise BadQuery("order must be asc or desc")
    offset = integer(parameters, "offset", 0, 0, 10**9)
    limit = integer(parameters, "limit", 50, 0, MAX_LIMIT)
    with database.connect() as connection:
        connection.row_factory = sqlite3.Row
        (total,) = connection.execute(f"SELECT count(*) FROM episodes WHERE {condition}", values).fetchone()
        rows = connection.execute(
            f"SELECT * FROM episodes WHERE {condition} ORDER BY {SORTS[sort]} {order}, id {order} LIMIT ? OFFSET ?",
            [*values, limit, offset],
        ).fetchall()
    return {"total": total, "offset": offset, "episodes": [episode_object(row) for row in rows]}


def facets(database: RunDatabase) -> dict[str, Any]:
    """Returns the possible values of each filter: names with their number of episodes, or a range of numbers."""
    with database.connect() as connection:

        def counts(column: str) -> dict[str, int]:
            query = f"SELECT {column}, count(*) FROM episodes WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC"
            return dict(connection.execute(f"{query} LIMIT {MAX_KINDS}").fetchall())

        def span(column: str) -> list[float] | None:
            low, high = connection.execute(f"SELECT min({column}), max({column}) FROM episodes").fetchone()
            return None if low is None else [low, high]

        return {
            "sources": counts("source"),
            "labels": counts("label"),
            "kinds": counts("kind"),
            "statuses": counts("status"),
            "group_statuses": counts("group_status"),
            "steps": span("step"),
            "turns": span("turns"),
            "return": span("return"),
            "invalid": span("invalid"),
        }


def steps(database: RunDatabase, parameters: Mapping[str, str]) -> dict[str, Any]:
    """Returns recorded steps, newest first. `parameters`: `offset` and `limit`. Raises BadQuery if one is invalid."""
    offset = integer(parameters, "offset", 0, 0, 10**9)
    limit = integer(parameters, "limit", 100, 0, MAX_LIMIT)
    with database.connect() as connection:
        (total,) = connection.execute("SELECT count(DISTINCT step) FROM episodes WHERE step IS NOT NULL").fetchone()
        chosen = [step for (step,) in connection.execute(
            "SELECT DISTINCT step FROM episodes WHERE step IS NOT NULL ORDER BY step DESC LIMIT ? OFFSET ?",
            (limit, offset))]  # fmt: skip
        return {"total": total, "offset": offset, "steps": [_step(connection, step) for step in chosen]}


def _step(connection: sqlite3.Connection, step: int) -> dict[str, Any]:
    rows = connection.execute(
        "SELECT group_id, group_status, count(*), sum(success) FROM episodes WHERE step = ? GROUP BY file, number",
        (step,),
    ).fetchall()
    played = sum(count for _, _, count, _ in rows)
    statuses = Counter(status for _, status, _, _ in rows)
    complete = connection.execute("SELECT complete FROM heads WHERE step = ?", (step,)).fetchone()
    known = {status: statuses[status] for status in ("trained", "backfilled", "filtered", "stale", "skipped")}
    return {
        "step": step,
        "recorded": len(rows),
        "complete": bool(complete[0]) if complete else None,
        "episodes": played,
        "success": sum(solved for _, _, _, solved in rows) / played if played else None,
    } | (known if complete else dict.fromkeys(known))


def neighbours(database: RunDatabase, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of other episodes: the previous and next episode of the file, and all episodes of the group."""
    with database.connect() as connection:
        query = "SELECT key FROM episodes WHERE file = ? AND id {} ? ORDER BY id {} LIMIT 1"
        previous = connection.execute(query.format("<", "DESC"), (row["file"], row["id"])).fetchone()
        following = connection.execute(query.format(">", "ASC"), (row["file"], row["id"])).fetchone()
        siblings: list[str] = []
        if row["group_id"] is not None:
            siblings = [key for (key,) in connection.execute(
                "SELECT key FROM episodes WHERE file = ? AND number = ? ORDER BY member",
                (row["file"], row["number"]))]  # fmt: skip
    ids = {"previous": previous[0] if previous else None, "next": following[0] if following else None}
    return {"ids": ids, "siblings": siblings}
