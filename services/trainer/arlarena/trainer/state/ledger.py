"""The ledger of a run's groups: the open groups, the outcomes of all other groups, and the limit for new groups.

A group is *open* from its issue until the ledger records the final outcome. Recording the outcome is called *settling*
the group. An open group has a *slot* until the group is settled or the slot is released. The number of slots is
limited, so that groups are not too old for training. Every checkpoint contains the ledger, so the limit is also kept
after a restart.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from arlarena.proto.task_order import group_id

# The outcome of a group. trained: an update used the group. filtered: the filter dropped the group. stale: all members
# were too old. empty: no member has a turn. skipped: the advantages, loss or gradient of the group's update were not
# finite. dead: the episodes failed, or the group was invalid. unused: the run ended before the group was used.
Outcome = Literal["trained", "filtered", "stale", "empty", "skipped", "dead", "unused"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


class LedgerError(RuntimeError):
    """A group was settled twice, or was never issued. This is a bug of the trainer, not an error of the user."""


@dataclass(slots=True)
class Ledger:
    """The groups of a run. S is the setting `staleness`, and B the setting `groups_per_step`.

    Attributes:
        next_index: number of groups issued so far. This is also the index of the next group.
        open: index of each open group, by group id.
        released: ids of open groups without a slot. Such a group is stale, or the filter dropped it. A dropped group
            may still be added to an incomplete batch (back-fill).
        lineage: for each settled group, the outcome, and the training step at which the group was settled.
    """

    next_index: int = 0
    open: dict[str, int] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    lineage: dict[str, tuple[Outcome, int]] = field(default_factory=dict)

    def allowance(self, staleness: int, groups_per_step: int) -> int:
        """Return how many groups may be issued now: (S + 1)·B minus the number of slots in use."""
        return max(0, (staleness + 1) * groups_per_step - (len(self.open) - len(self.released)))

    def issue(self, count: int) -> list[int]:
        """Open `count` more groups and return their indices."""
        indices = list(range(self.next_index, self.next_index + count))
        self.next_index += count
        self.open.update((group_id(index), index) for index in indices)
        return indices

    def release(self, group: str) -> None:
        """Free the slot of a group that is still open.

        Raises:
            LedgerError: the group is not open.
        """
        if group not in self.open:
            raise LedgerError(f"group {group} is not open and has no slot to free")
        self.released.add(group)

    def settle(self, group: str, outcome: Outcome, step: int) -> None:
        """Record the final outcome of an open group.

        Raises:
            LedgerError: the group was settled before, or was never issued.
        """
        if group in self.lineage:
            raise LedgerError(f"group {group} was settled as {self.lineage[group][0]} and cannot become {outcome}")
        if self.open.pop(group, None) is None:
            raise LedgerError(f"group {group} was never issued")
        self.released.discard(group)
        self.lineage[group] = (outcome, step)

    def counts(self) -> dict[str, int]:
        """Return the number of settled groups by outcome."""
        counted = Counter(outcome for outcome, _ in self.lineage.values())
        return {outcome: counted[outcome] for outcome in OUTCOMES}

    def to_json(self) -> dict[str, Any]:
        """Return the content for a checkpoint.

        `released` is left out, because the trainer receives the released groups again after a restart.
        """
        lineage = {group: [outcome, step] for group, (outcome, step) in self.lineage.items()}
        return {"next_index": self.next_index, "open": self.open, "lineage": lineage}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Ledger:
        """Return the ledger from the result of `to_json`."""
        lineage = {group: (outcome, step) for group, (outcome, step) in data["lineage"].items()}
        return cls(next_index=data["next_index"], open=dict(data["open"]), lineage=lineage)
