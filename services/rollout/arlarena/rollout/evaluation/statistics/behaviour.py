"""Behaviour of the player in an attempt: patterns of actions in any environment, and habits of shoppers in WebShop."""

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
# The start of WebShop's first page, and the line of a page of results, in both forms of observations.
_FIRST_PAGE = "WebShop"
_RESULTS = re.compile(r"Page (\d+) \(Total results: \d+\)")
_CLICK = re.compile(r"click\[(.+)\]")
_PAGE_TURNS = ("next >", "< prev")
_BUY, _BACK = "buy now", "back to search"


def behaviour(record: AttemptRecord) -> dict[str, float]:
    """Return the counts of one attempt by name: `ActionPatterns`, and for an attempt in WebShop `shopping`.

    The patterns were counted while playing. If the record does not have them, they are counted from its turns. The
    state after the last turn is then unknown, so this turn is neither idle nor back and forth.
    """
    if all(name in record.metrics for name in PATTERNS):
        counts = {name: record.metrics[name] for name in PATTERNS}
    else:
        counts = _patterns(record.turns)
    return counts | (shopping(record) if is_webshop(record) else {})


def mean_behaviour(records: Sequence[AttemptRecord]) -> dict[str, float]:
    """Return the mean over tasks of each count's mean over the scored attempts that have it."""
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
    page_turns_in_vain: page turns beyond those that are necessary. A browse starts when a page of results is reached
        by another action than a page turn, and ends when another action than a page turn is played. If it ends with
        the click on a product of page b, and started on page a, |b - a| page turns were necessary. If it ends without
        an opened product (a search, a return to the search page, or the end of the attempt), none was necessary.
    purchases: 1 if a product was bought.
    purchases_too_early: 1 if the purchase was not a success, and either the page offered options and none was chosen
        since the product was opened, or no other product was opened before in the attempt.
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
    """Return the name of the clicked element in lower case, or None if the turn is no accepted click."""
    match = _CLICK.match(turn.action) if turn.action_valid and not turn.no_action else None
    return match[1].lower() if match else None


def _page(turn: TurnRecord) -> int | None:
    """Return the number of the page of results that the turn starts on, or None."""
    # The observation may end with the text of products, so the first match is the page's own line, which comes before.
    match = _RESULTS.search(turn.observation)
    return int(match[1]) if match else None


def _page_turns(turns: Sequence[TurnRecord]) -> tuple[int, int]:
    """Return the number of page turns, and of those in vain."""
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
    """Return whether a product was bought, and whether options or other products were ignored before."""
    opened: set[str] = set()
    chosen = False
    for turn in turns:
        name = _clicked(turn)
        if name is None:
            continue
        if name == _BUY:
            # The first page of the product shows the options; a sub-page does not have the button.
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
    """Return the names and values of options in lower case: the parts between `< Prev` and the title.

    The title is the part before the price.
    """
    parts = [_plain(part) for part in re.split(r" \[SEP\] |\n", observation)]
    parts = [part for part in parts if part]
    if "< prev" not in parts:
        return set()
    after = parts[parts.index("< prev") + 1 :]
    price = next((number for number, part in enumerate(after) if part.startswith("price:")), 0)
    return set(after[: max(0, price - 1)])


def _plain(part: str) -> str:
    """Return the text of a part: `[button] Next > [button_]` and `[clicked button] … [clicked button_]` are buttons."""
    return re.sub(r"\[(?:clicked )?button_?\]", "", part).strip().lower()
