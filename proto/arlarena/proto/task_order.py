"""The order of tasks in a run. Each task depends only on its position, so a run can be resumed and repeated exactly.

    order = TaskOrder("train", size=3553, seed=0)
    order.index(0), order.index(1), ...        # each index once, then a new epoch in another order

The tasks of a finite split are drawn in epochs. Each epoch has its own seeded permutation, because official data sets
are sorted by kind of task. The tasks of an endless split are drawn in the order of their indices. Each seed has its own
block of indices, so runs with different seeds have no task in common (seeds are taken modulo `SEED_BLOCKS`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# Size of one seed's block of indices in an endless split. A run draws fewer tasks than this number.
SEED_STRIDE = 1_000_000
# Number of blocks. Indices stay below 2**32, because some task generators use the index as a 32-bit seed.
SEED_BLOCKS = 4_000


@dataclass(frozen=True, slots=True)
class TaskOrder:
    """The order of the tasks of a split for one seed.

    Attributes:
        split: name of the split.
        size: number of tasks; None for an endless split, where any index is valid.
        seed: the run's seed.
        start: the first index of seed 0; only for endless splits.
        blocks: whether each seed has its own block of `SEED_STRIDE` indices; only for endless splits.
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
        """Returns the index of the task at `position`, which counts from 0."""
        if self.size is None:
            return self.start + (self.seed % SEED_BLOCKS) * SEED_STRIDE * self.blocks + position
        epoch, offset = divmod(position, self.size)
        return int(_permutation(self.split, self.size, self.seed, epoch)[offset])


@lru_cache(maxsize=4)
def _permutation(split: str, size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns a permutation of range(size) that does not depend on the version of numpy.

    The raw stream of a bit generator is the same in all versions of numpy. The result of `Generator.permutation` may
    differ between versions.
    """
    digest = hashlib.blake2b(f"{seed}/{split}/{epoch}".encode(), digest_size=16).digest()
    keys = np.random.PCG64(int.from_bytes(digest, "little")).random_raw(size)
    return np.argsort(keys, kind="stable")
