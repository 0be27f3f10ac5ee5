"""Marks the tags of a reply, and describes errors of a reply.

The marks depend only on the tags in the reply, because a run does not record the parser of its environment.
"""

from __future__ import annotations

import re
from typing import Any

from arlarena.proto.trajectory import Turn

_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9_-]{0,30})>")
# Maximum number of tags that are read in one reply.
MAX_TAGS = 200


def reply_marks(text: str) -> list[dict[str, Any]]:
    """Returns the range of each tag, and of the text inside each pair of tags. Offsets count code points."""
    marks: list[dict[str, Any]] = []
    opened: dict[str, int] = {}
    for found in list(_TAG.finditer(text))[:MAX_TAGS]:
        name = found[2].lower()
        if not found[1]:
            opened[name] = found.end()
        elif name in opened:
            marks.append({"start": opened.pop(name), "end": found.start(), "kind": name})
        marks.append({"start": found.start(), "end": found.end(), "kind": "tag"})
    return sorted(marks, key=lambda mark: (mark["start"], mark["end"]))


def format_problems(turn: Turn) -> list[str]:
    """Returns the likely errors of a reply as sentences. Returns [] if format and action are valid."""
    if turn.format_valid and turn.action_valid:
        return []
    problems = []
    if turn.finish_reason == "length":
        problems.append("The reply was cut at the maximum number of tokens.")
    if turn.no_action:
        problems.append("The reply contains no action.")
    if not turn.format_valid:
        problems += _tag_problems(turn.response)
    if not problems:
        problems.append(
            "The environment's parser did not accept the format."
            if not turn.format_valid
            else "The environment did not accept the action in this state."
        )
    return problems


def _tag_problems(text: str) -> list[str]:
    problems, opened = [], list[str]()
    counts: dict[str, int] = {}
    last = 0
    for found in list(_TAG.finditer(text))[:MAX_TAGS]:
        name, last = found[2].lower(), found.end()
        if not found[1]:
            opened.append(name)
            counts[name] = counts.get(name, 0) + 1
        elif name in opened:
            opened.remove(name)
        else:
            problems.append(f"</{name}> closes a tag that is not open.")
    problems += [f"<{name}> is not closed." for name in opened]
    problems += [f"<{name}> occurs {count} times." for name, count in counts.items() if count > 1]
    if not counts:
        problems.append("The reply contains no tag.")
    elif text[last:].strip():
        problems.append("The reply continues after the last tag.")
    return problems
