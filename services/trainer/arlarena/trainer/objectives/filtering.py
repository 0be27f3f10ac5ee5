"""Selects the groups that a step trains on: dimension four (trajectory filtering) of ARLArena (arXiv 2602.21534).

The rule `success` keeps a group of G episodes if some but not all of them are solved: 0 < solved < G. DAPO
(arXiv 2503.14476) and SAMPO use this rule.

A rule (filter) is a function from the outcomes of one group to True (keep) or False (drop). `Selection` applies a rule
to the arriving groups until a batch is full. A group occurs in a batch at most once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from arlarena.trainer.objectives.registry import Registry

# Returns are sums of rewards. Sums of the same rewards in different orders may differ by rounding errors.
RETURN_TOLERANCE = 1e-9

Item = TypeVar("Item")


# A rule gets the returns of a group's trajectories, and the successes if the environment defines success.
FILTERS: Registry[Callable[[Sequence[float], Sequence[bool] | None], bool]] = Registry("filter")
register_filter = FILTERS.register


@register_filter("none")
def keep_all(_returns: Sequence[float], _successes: Sequence[bool] | None) -> bool:
    """Keep every group."""
    return True


@register_filter("success")
def mixed_success(_returns: Sequence[float], successes: Sequence[bool] | None) -> bool:
    """Keep a group with at least one successful and one failed episode: the rule of the ARLArena paper.

    Raises:
        ValueError: the environment does not define success.
    """
    if successes is None:
        raise ValueError("filter 'success' needs successes; if the environment defines no success, use filter 'return'")
    return 0 < sum(map(bool, successes)) < len(successes)


@register_filter("return")
def mixed_return(returns: Sequence[float], _successes: Sequence[bool] | None) -> bool:
    """Keep a group if its raw returns are not all equal: the rule of the code released with ARLArena.

    If returns depend on the number of turns, returns are rarely equal, and this rule drops almost no group.
    """
    return len(returns) > 0 and max(returns) - min(returns) > RETURN_TOLERANCE


class Verdict(Enum):
    """The decision about an offered group. `Selection.close` may still add a dropped group to the batch (back-fill)."""

    KEPT = "kept"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Selected(Generic[Item]):
    """The result of a selection.

    Attributes:
        batch: the groups to train on. First come the groups that passed the filter, in order of arrival. Then come the
            back-filled groups, newest first.
        filtered: the dropped groups that are not in the batch, in order of arrival.
        kept: number of groups in `batch` that passed the filter.
        backfilled: number of groups in `batch` that the filter dropped.
    """

    batch: list[Item]
    filtered: list[Item]
    kept: int
    backfilled: int


class Selection(Generic[Item]):
    """Fills one batch with groups that pass the filter. At most `max_tries` · `wanted` groups can be offered.

    Usage: `offer` each arriving group while `is_full()` is False. Then call `close`.
    """

    def __init__(self, rule: str, wanted: int, *, max_tries: int = 3, backfill: bool = True) -> None:
        """Start with an empty batch.

        `rule`: name of the filter. `wanted`: number of groups in the batch. `backfill`: whether `close` fills an
        incomplete batch with dropped groups.

        Raises:
            ValueError: the rule is unknown, or `wanted` or `max_tries` is below 1.
        """
        if rule not in FILTERS:
            raise ValueError(f"unknown filter {rule!r}; choose one of {', '.join(FILTERS)}")
        if wanted < 1 or max_tries < 1:
            raise ValueError(f"wanted = {wanted} and max_tries = {max_tries} must be at least 1")
        self._useful = FILTERS[rule]
        self._wanted, self._budget, self._backfill = wanted, wanted * max_tries, backfill
        self._kept: list[Item] = []
        self._dropped: list[Item] = []

    @property
    def kept(self) -> int:
        """The number of groups that passed the filter so far."""
        return len(self._kept)

    @property
    def left(self) -> int:
        """The number of groups that may still be offered if the filter drops all of them."""
        return self._budget - self.kept - self.dropped

    @property
    def dropped(self) -> int:
        """The number of groups that the filter dropped so far."""
        return len(self._dropped)

    def offer(self, item: Item, returns: Sequence[float], successes: Sequence[bool] | None = None) -> Verdict:
        """Apply the filter to the outcomes of **all** trajectories of a group, including trajectories that are too old.

        Raises:
            RuntimeError: the selection is full. Offer the group to the next selection.
        """
        if self.is_full():
            raise RuntimeError(
                f"the batch is full ({self.kept} kept, {self.dropped} dropped); offer the group to the next selection"
            )
        useful = self._useful(returns, successes)
        (self._kept if useful else self._dropped).append(item)
        return Verdict.KEPT if useful else Verdict.DROPPED

    def is_full(self) -> bool:
        """True if `wanted` groups passed the filter, or `max_tries` · `wanted` groups were offered."""
        return self.kept >= self._wanted or self.kept + self.dropped >= self._budget

    def close(self) -> Selected[Item]:
        """Return the batch. If `backfill` is True, an incomplete batch is filled with the newest dropped groups."""
        missing = min(self._wanted - self.kept, self.dropped) if self._backfill else 0
        split = self.dropped - missing
        fill = self._dropped[split:][::-1]
        return Selected(batch=self._kept + fill, filtered=self._dropped[:split], kept=self.kept, backfilled=len(fill))


def rule_at(rule: str, step: int, cold_start_steps: int) -> str:
    """Return the rule of training step `step` (counted from 0): "none" in the first `cold_start_steps`, else `rule`.

    In the first steps, groups in which all episodes fail are kept, because the penalty for invalid turns teaches the
    format of replies.
    """
    return "none" if step < cold_start_steps else rule
