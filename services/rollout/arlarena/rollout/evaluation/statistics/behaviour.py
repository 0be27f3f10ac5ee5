"""Behaviour of the player in an attempt: patterns of actions in any environment, and of shopping in WebShop."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from arlarena.rollout.episode import ActionPatterns
from arlarena.rollout.evaluation.records import AttemptRecord, TurnRecord
from arlarena.rollout.evaluation.statistics.intervals import task_means
from arlarena.rollout.evaluation.statistics.tasks import TaskKey, task_key

# The patterns of `rollout.episode.ActionPatterns`.
PATTERNS = ("repeated_actions", "back_and_forth", "invalid_actions", "idle_turns", "no_action_turns")
# WebShop's first page starts with `_FIRST_PAGE`. A page of results has the line `_RESULTS`. Both kinds of WebShop's
# observations (`text` and `text_rich`) contain these texts.
_FIRST_PAGE = "WebShop"
_RESULTS = re.compile(r"Page (\d+) \(Total results: \d+\)")
_CLICK = re.compile(r"click\[(.+)\]")
_PAGE_TURNS = ("next >", "< prev")
_BUY, _BACK = "buy now", "back to search"


def behaviour(record: AttemptRecord) -> dict[str, float]:
    """Return the counts of one attempt, by name: the counts of `ActionPatterns`. In WebShop, also those of `shopping`.

    The metrics of a record usually contain the counts of `ActionPatterns`. Otherwise, they are computed from the
    recorded turns. The recorded turns do not contain the state after the last turn. Therefore the last turn never
    counts as idle or as back and forth.
    """
    if all(name in record.metrics for name in PATTERNS):
        counts = {name: record.metrics[name] for name in PATTERNS}
    else:
        counts = _patterns(record.turns)
    return counts | (shopping(record) if is_webshop(record) else {})


def mean_behaviour(records: Sequence[AttemptRecord]) -> dict[str, float]:
    """Return the mean of each count: the mean over each task's attempts, then the mean over tasks.

    For each count, only scored attempts that have this count are used.
    """
    values: defaultdict[str, defaultdict[TaskKey, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        for name, value in behaviour(record).items() if record.scored else ():
            values[name][task_key(record.key)].append(value)
    return {name: float(task_means(counts)[0].mean()) for name, counts in sorted(values.items())}


def _patterns(turns: Sequence[TurnRecord]) -> dict[str, float]:
    patterns = ActionPatterns()
    keys = [*(turn.state_key for turn in turns), ""][1:]
    for turn, there in zip(turns, keys, strict=True):
        patterns.count(turn.state_key, there, turn.action, action_valid=turn.action_valid, no_action=turn.no_action)
    return patterns.counts()


def is_webshop(record: AttemptRecord) -> bool:
    """Return whether the first observation is the first page of WebShop."""
    return bool(record.turns) and record.turns[0].observation.startswith(_FIRST_PAGE)


def shopping(record: AttemptRecord) -> dict[str, float]:
    """Return counts of one attempt in WebShop. Only actions that the shop accepted are counted.

    page_turns: clicks on `Next >` or `< Prev` on a page of results.
    page_turns_in_vain: page turns that were not necessary. They are counted for each visit to the pages of results. A
        visit ends with the first action that is not a page turn. If a visit starts on page a and ends with a click on a
        product of page b, |b - a| page turns were necessary. If a visit ends without an opened product (a search, a
        return to the search page, or the end of the attempt), no page turn was necessary.
    purchases: 1 if a product was bought.
    purchases_too_early: 1 if a product was bought, the attempt was no success, and the player was hasty. The player was
        hasty in two cases. Case 1: the product had options, and the player chose none of them after opening the
        product. Case 2: the player had opened no other product before.
    """
    turns_made, in_vain = _page_turns(record.turns)
    bought, hasty = _purchase(record.turns)
    return {
        "page_turns": float(turns_made),
        "page_turns_in_vain": float(in_vain),
        "purchases": float(bought),
        "purchases_too_early": float(bought and hasty and not record.success),
    }


def _clicked(turn: TurnRecord) -> str | None:
    """Return the name of the clicked element in lower case. Return None if the turn is not an accepted click."""
    match = _CLICK.match(turn.action) if turn.action_valid and not turn.no_action else None
    return match[1].lower() if match else None


def _page(turn: TurnRecord) -> int | None:
    """Return the number of the page of results that the turn's observation shows. Return None for other pages."""
    # The texts of products may also match. They follow the page's own line, so the first match is the page's line.
    match = _RESULTS.search(turn.observation)
    return int(match[1]) if match else None


def _page_turns(turns: Sequence[TurnRecord]) -> tuple[int, int]:
    """Return (number of page turns, number of page turns in vain). See `shopping`."""
    made = in_vain = pending = 0
    start: int | None = None
    for turn in turns:
        page, name = _page(turn), _clicked(turn)
        if page is None or not turn.action_valid or turn.no_action:
            continue
        start = page if start is None else start
        if name in _PAGE_TURNS:
            made, pending = made + 1, pending + 1
            continue
        opened = name is not None and name != _BACK
        in_vain += pending - (abs(page - start) if opened else 0)
        pending, start = 0, None
    return made, in_vain + pending


def _purchase(turns: Sequence[TurnRecord]) -> tuple[bool, bool]:
    """Return (bought, hasty): True if a product was bought, and True if the player was hasty (see `shopping`)."""
    opened: set[str] = set()
    chosen = False
    for turn in turns:
        name = _clicked(turn)
        if name is None:
            continue
        if name == _BUY:
            # Only the first page of a product has this button. The first page also shows all options.
            ignored = bool(_option_parts(turn.observation)) and not chosen
            return True, ignored or len(opened) == 1
        if _page(turn) is not None:
            if name not in (*_PAGE_TURNS, _BACK):
                opened.add(name)
                chosen = False
        elif name in _option_parts(turn.observation):
            chosen = True
    return False, False


def _option_parts(observation: str) -> set[str]:
    """Return the names and values of options in lower case.

    They are the parts of the observation between `< Prev` and the title. The title is the part before the price.
    """
    parts = [_plain(part) for part in re.split(r" \[SEP\] |\n", observation)]
    parts = [part for part in parts if part]
    if "< prev" not in parts:
        return set()
    after = parts[parts.index("< prev") + 1 :]
    price = next((number for number, part in enumerate(after) if part.startswith("price:")), 0)
    return set(after[: max(0, price - 1)])


def _plain(part: str) -> str:
    """Return a part of an observation in lower case, without the marks of buttons.

    The marks are `[button] … [button_]` and `[clicked button] … [clicked button_]`.
    """
    return re.sub(r"\[(?:clicked )?button_?\]", "", part).strip().lower()
