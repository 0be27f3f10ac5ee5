"""The order of tasks in a run. Seed and position determine a task, so a run can be resumed and repeated exactly.

    order = TaskOrder("train", size=3553, seed=0)
    order.index(0), order.index(1), ...        # each index once, then a new epoch in another order

A finite split is played in epochs. Official data sets are sorted by kind of task, so each epoch has its own random
permutation. An endless split is played in the order of the indices. Each seed from 0 to `SEED_BLOCKS` - 1 has its own
block of indices, so runs with different seeds have no task in common.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# Number of indices in one seed's block, in an endless split. Each run plays fewer tasks.
SEED_STRIDE = 1_000_000
# Number of blocks. All indices must be below 2**32, because some task generators use the index as a 32-bit seed.
SEED_BLOCKS = 4_000


@dataclass(frozen=True, slots=True)
class TaskOrder:
    """The order of the tasks of a split for one seed.

    Attributes:
        split: name of the split.
        size: number of tasks; None for an endless split, in which every index is valid.
        seed: the run's seed.
        start: the first index for seed 0. Used only for endless splits.
        blocks: whether each seed has its own block of `SEED_STRIDE` indices. Used only for endless splits.
    """

    split: str
    size: int | None
    seed: int
    start: int = 0
    blocks: bool = True

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"split {self.split!r} has no tasks")

    def index(self, position: int) -> int:
        """Returns the index of the task at `position` (0 for the run's first task)."""
        if self.size is None:
            return self.start + (self.seed % SEED_BLOCKS) * SEED_STRIDE * self.blocks + position
        epoch, offset = divmod(position, self.size)
        return int(_permutation(self.split, self.size, self.seed, epoch)[offset])


def group_id(index: int) -> str:
    """Returns the group id for position `index` of the task order, such as `g000017`.

    The episodes of this group play the task `TaskOrder.index(index)`.
    """
    return f"g{index:06d}"


@lru_cache(maxsize=4)
def _permutation(split: str, size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns a random permutation of range(size), int64 [size]. All versions of numpy give an equal permutation.

    Numpy guarantees that the raw stream of a bit generator does not change. It gives no such guarantee for
    `Generator.permutation`.
    """
    digest = hashlib.blake2b(f"{seed}/{split}/{epoch}".encode(), digest_size=16).digest()
    keys = np.random.PCG64(int.from_bytes(digest, "little")).random_raw(size)
    return np.argsort(keys, kind="stable")
