"""The ledger of groups: which are open, which are settled, and how many more may be issued.

It uses no clocks and no sockets. A group holds a *slot* from its issue until it is trained on or dropped, not until its
acknowledgement, which waits for a checkpoint. Every checkpoint contains the ledger, so the bound on staleness also
holds after a restart.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

# trained: an update used it. filtered: the filter dropped it. stale: all members were too old. empty: no member has a
# turn. skipped: the figures of its update were not finite. dead: it could not be played or read. unused: the run ended.
Outcome = Literal["trained", "filtered", "stale", "empty", "skipped", "dead", "unused"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


class LedgerError(RuntimeError):
    """A group was settled twice or never issued. This is a bug of the trainer, not an error of the user."""


def group_id(index: int) -> str:
    """The id of the run's `index`-th group."""
    return f"g{index:06d}"


@dataclass(slots=True)
class Ledger:
    """The lineage of a run.

    Attributes:
        next_index: groups issued so far.
        open: index by id of the groups that are issued and not settled.
        released: open groups that hold no slot (dropped by the filter, but may still be back-filled).
        lineage: outcome of each settled group, and the step that settled it.
    """

    next_index: int = 0
    open: dict[str, int] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    lineage: dict[str, tuple[Outcome, int]] = field(default_factory=dict)

    def allowance(self, staleness: int, groups_per_step: int) -> int:
        """How many groups may be issued now: (S + 1)·B minus the slots held."""
        return max(0, (staleness + 1) * groups_per_step - (len(self.open) - len(self.released)))

    def issue(self, count: int) -> list[int]:
        """Open `count` more groups and return their indices."""
        indices = list(range(self.next_index, self.next_index + count))
        self.next_index += count
        self.open.update((group_id(index), index) for index in indices)
        return indices

    def release(self, group: str) -> None:
        """Free the slot of a group that is still open."""
        if group not in self.open:
            raise LedgerError(f"group {group} is not open and has no slot to free")
        self.released.add(group)

    def settle(self, group: str, outcome: Outcome, step: int) -> None:
        """Record the final outcome of an open group. A group is settled exactly once."""
        if group in self.lineage:
            raise LedgerError(f"group {group} was settled as {self.lineage[group][0]} and cannot become {outcome}")
        if self.open.pop(group, None) is None:
            raise LedgerError(f"group {group} was never issued")
        self.released.discard(group)
        self.lineage[group] = (outcome, step)

    def counts(self) -> dict[str, int]:
        """The number of settled groups by outcome."""
        counted = Counter(outcome for outcome, _ in self.lineage.values())
        return {outcome: counted[outcome] for outcome in OUTCOMES}

    def to_json(self) -> dict[str, Any]:
        """The content for a checkpoint, without `released`: after a restart these groups are delivered again."""
        lineage = {group: [outcome, step] for group, (outcome, step) in self.lineage.items()}
        return {"next_index": self.next_index, "open": self.open, "lineage": lineage}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Ledger:
        """The inverse of `to_json`."""
        lineage = {group: (outcome, step) for group, (outcome, step) in data["lineage"].items()}
        return cls(next_index=data["next_index"], open=dict(data["open"]), lineage=lineage)
