"""Prepares attempts for the HTML page. Long attempts are shortened to limit the size of the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from arlarena.proto.text.wording import counted, printable
from arlarena.rollout.evaluation.records import AttemptRecord, TurnRecord
from arlarena.rollout.evaluation.report.images import media_type, read_image

# Upper bounds of the size of the HTML markup for an attempt and for a turn, in bytes.
ATTEMPT_BYTES, TURN_BYTES = 1_200, 500
OUTCOMES = {
    "solved": "solved",
    "failed": "not solved",
    "policy_error": "error of the model",
    "infra_error": "infrastructure error",
    "model_error": "error of the API",
}


@dataclass(frozen=True, slots=True)
class PageTurn:
    """A turn on the page. `images`: data URLs. `marks`: texts such as "no action".

    `valid`: True if both the format and the action are valid.
    """

    observation: str
    response: str
    action: str
    images: tuple[Markup, ...]
    marks: tuple[str, ...]
    reward: float
    valid: bool


@dataclass(frozen=True, slots=True)
class PageAttempt:
    """An attempt on the page. `outcome`: a key of `OUTCOMES`. `notes`: texts that say which parts are left out."""

    record: AttemptRecord
    outcome: str
    error: str
    turns: tuple[PageTurn, ...]
    final_observation: str
    notes: tuple[str, ...]


def outcome(record: AttemptRecord) -> str:
    """Returns the outcome of an attempt: a key of `OUTCOMES`."""
    if record.status != "ok":
        return record.status
    return "solved" if record.success else "failed"


def fair_limit(sizes: Sequence[int], budget: int) -> int:
    """Returns the largest limit for which the sum of min(size, limit) over `sizes` is at most `budget`.

    Items above the limit are cut, and smaller items stay complete. If all items fit, the limit is the largest size.
    """
    left, limit = budget, 0
    for place, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - place)
        if size > share:
            return max(0, share)
        left, limit = left - size, size
    return limit


def text_size(text: str) -> int:
    """Returns the number of bytes of `text` on the page."""
    return len(str(escape(printable(text))).encode("utf-8", "replace"))


def cut(text: str, limit: int) -> str:
    """Returns `text`, cut to about `limit` bytes on the page. A note at the end counts the omitted characters."""
    if text_size(text) <= limit:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_size(text[:middle]) <= limit else (low, middle - 1)
    return f"{text[:low]} … [{counted(len(text) - low, 'character')} left out]"


class PageBudget:
    """Prepares attempts for the page, within a size budget. Images count towards the budget."""

    def __init__(self, evaluation: Path, records: Sequence[AttemptRecord], budget: int) -> None:
        """Measure the attempts. `budget`: maximum size of all attempts together on the page, in bytes."""
        self._evaluation, self._image_sizes = evaluation, dict[str, int]()
        self.shown = records[: max(1, budget // ATTEMPT_BYTES)]
        self.limit = fair_limit([self._size(one) for one in self.shown], budget)

    def attempts(self) -> list[PageAttempt]:
        """Returns the attempts that the page shows. The largest attempts are truncated."""
        return [self._attempt(record) for record in self.shown]

    def _image_size(self, name: str) -> int:
        if name not in self._image_sizes:
            self._image_sizes[name] = len(read_image(self._evaluation, name) or b"") * 4 // 3 + 40
        return self._image_sizes[name]

    def _turn_size(self, turn: TurnRecord) -> int:
        texts = text_size(turn.observation) + text_size(turn.response) + text_size(turn.action)
        return TURN_BYTES + texts + sum(map(self._image_size, turn.images))

    def _size(self, record: AttemptRecord) -> int:
        ends = text_size(record.final_observation) + text_size(record.error)
        return ATTEMPT_BYTES + ends + sum(map(self._turn_size, record.turns))

    def _attempt(self, record: AttemptRecord) -> PageAttempt:
        room = max(0, self.limit - ATTEMPT_BYTES)
        error, room = self._take(record.error, room)
        final, room = self._take(record.final_observation, room)
        turns = record.turns[: room // (2 * TURN_BYTES)] if self._size(record) > self.limit else record.turns
        room -= TURN_BYTES * len(turns)
        pieces = [size for turn in turns for size in self._pieces(turn)]
        limit = fair_limit(pieces, max(0, room))
        dropped = sum(self._image_size(name) > limit for turn in turns for name in turn.images)
        long = sum(size > limit for size in pieces) - dropped
        notes = (
            [f"{counted(len(record.turns) - len(turns), 'turn')} left out"] if len(turns) < len(record.turns) else []
        )
        notes += [f"{counted(long, 'text')} shortened"] if long else []
        notes += [f"{counted(dropped, 'image')} left out"] if dropped else []
        shown = tuple(self._turn(turn, limit) for turn in turns)
        return PageAttempt(record, outcome(record), error, shown, final, tuple(notes))

    def _take(self, text: str, room: int) -> tuple[str, int]:
        """Cut `text` to a quarter of `room` (bytes on the page). Returns the text and the remaining room."""
        kept = cut(text, room // 4) if text else ""
        return kept, max(0, room - text_size(kept))

    def _pieces(self, turn: TurnRecord) -> list[int]:
        texts = (turn.observation, turn.response, turn.action)
        return [*map(text_size, texts), *map(self._image_size, turn.images)]

    def _turn(self, turn: TurnRecord, limit: int) -> PageTurn:
        marks = {
            "malformed": not turn.format_valid,
            "invalid action": not turn.action_valid,
            "no action": turn.no_action,
            "cut off": turn.finish == "length",
            "refused": turn.finish == "refusal",
            "called a tool": turn.finish == "tool_calls",
        }
        return PageTurn(
            observation=cut(turn.observation, limit),
            response=cut(turn.response, limit),
            action=cut(turn.action, limit),
            images=tuple(filter(None, (self._url(name, limit) for name in turn.images))),
            marks=tuple(name for name, marked in marks.items() if marked),
            reward=turn.reward,
            valid=turn.format_valid and turn.action_valid,
        )

    def _url(self, name: str, limit: int) -> Markup:
        data = read_image(self._evaluation, name) if self._image_size(name) <= limit else None
        if not data:
            return Markup("")
        return Markup(f"data:{media_type(name)};base64,{base64.b64encode(data).decode()}")  # base64 needs no escapes
