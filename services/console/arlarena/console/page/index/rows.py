"""Converts recorded episodes to rows of the index."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from arlarena.console.page.reading.records import Place
from arlarena.proto.records.episode_lines import EpisodeLine
from arlarena.proto.records.group_records import GroupRecord
from arlarena.proto.text.wording import printable
from arlarena.proto.trajectory import Group, Task, Trajectory

# Maximum number of characters in the text search: of each text of a turn, and of all texts of an episode.
TURN_CHARS, EPISODE_CHARS = 4_000, 64_000
# Maximum number of characters of a name in a list.
NAME_CHARS = 200

COLUMNS = (
    "key", "file", "number", "offset", "size", "member", "source", "label", "step", "group_id", "task", "environment",
    "kind", "success", "score", "return", "turns", "invalid", "tokens", "status", "group_status", "outcome",
    "advantage", "first_action", "playable",
)  # fmt: skip
Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class FileKind:
    """The kind of a file of episodes.

    `source`: training, evaluation or demonstrations. `label`: the name of the evaluation or of the demonstrations, else
    None. `step`: the training step, else None. `prefix`: the first part of the episodes' keys.
    """

    source: str
    label: str | None
    step: int | None
    prefix: str


@dataclass(slots=True)
class RowBatch:
    """Rows to insert into the database."""

    rows: list[Row] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    transitions: Counter[tuple[bool, str]] = field(default_factory=Counter)

    def clear(self) -> None:
        """Remove everything."""
        self.rows.clear()
        self.texts.clear()
        self.transitions.clear()


def action_word(action: str, valid: bool) -> str:
    """Returns the first word of an action, or `-` if the action is invalid or empty. Transitions use this word."""
    words = action.split(maxsplit=1) if valid else []
    return words[0][:NAME_CHARS] if words else "-"


def add_group(
    batch: RowBatch, kind: FileKind, file: int, place: Place, group: Group, record: GroupRecord | None
) -> None:
    """Add the episodes of a group to `batch`. `record`: the group's outcome and figures, or None if not recorded."""
    number = place.number - 1 if record else place.number  # the first frame of `records/` is the step's head
    for member, trajectory in enumerate(group.trajectories):
        found = record.members[member] if record and member < len(record.members) else None
        advantages = found.advantages if found else ()
        _add(
            batch,
            kind,
            file,
            place,
            f"{kind.prefix}.{number}.{member}",
            member=member,
            task=group.task,
            trajectory=trajectory,
            group_id=group.id,
            status=found.status if found else None,
            group_status=record.status if record else None,
            advantage=sum(advantages) / len(advantages) if advantages else None,
        )


def add_line(batch: RowBatch, kind: FileKind, file: int, place: Place, line: EpisodeLine) -> None:
    """Add the episode of one line of an episodes file to `batch`."""
    tokens = sum(turn.response_tokens for turn in line.turns)
    key = f"{kind.prefix}.{place.number}"
    _add(batch, kind, file, place, key, task=line.to_task(0), trajectory=line.to_trajectory(), tokens=tokens)


def _add(
    batch: RowBatch,
    kind: FileKind,
    file: int,
    place: Place,
    key: str,
    *,
    task: Task,
    trajectory: Trajectory,
    member: int | None = None,
    group_id: str | None = None,
    status: str | None = None,
    group_status: str | None = None,
    advantage: float | None = None,
    tokens: int | None = None,
) -> None:
    turns = trajectory.turns
    invalid = sum(not (turn.action_valid and turn.format_valid) for turn in turns)
    count = sum(len(turn.response_ids) // 4 for turn in turns) if tokens is None else tokens
    first = turns[0].action if turns else ""
    playable = bool(turns) and (task.index >= 0 or bool(task.name))
    batch.rows.append(
        (
            key, file, place.number, place.offset, place.size, member, kind.source, kind.label, kind.step,
            _short(group_id), _short(task.id), _short(task.environment), _short(trajectory.kind),
            trajectory.success, _finite(trajectory.score), _finite(trajectory.total_reward), len(turns), invalid,
            count, status, group_status, trajectory.outcome, _finite(advantage), _short(first), playable,
        )
    )  # fmt: skip
    batch.texts.append(_text(trajectory))
    words = [action_word(turn.action, turn.action_valid) for turn in turns]
    batch.transitions.update((trajectory.success, f"{before}>{after}") for before, after in pairwise(words))


def _text(trajectory: Trajectory) -> str:
    parts, left = [], EPISODE_CHARS
    for turn in trajectory.turns:
        parts.append(f"{turn.observation[:TURN_CHARS]}\n{turn.response[:TURN_CHARS]}\n{turn.action[:TURN_CHARS]}")
        left -= len(parts[-1])
        if left <= 0:
            break
    return "\n".join(parts)[:EPISODE_CHARS].encode("utf-8", "replace").decode()


def _short(text: str | None) -> str | None:
    return None if text is None else printable(text[:NAME_CHARS])


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) < float("inf") else None
