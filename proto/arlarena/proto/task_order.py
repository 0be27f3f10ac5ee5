"""Which task of a split is drawn at which position of a run, so that a run can be resumed and repeated exactly.

    order = TaskOrder("train", size=3553, seed=0)
    order.index(0), order.index(1), ...        # every index once, then a new epoch in another order

A split with an end is drawn epoch by epoch, each epoch in its own seeded permutation: official data are sorted by kind,
and neighbouring tasks are alike. A split without an end is drawn by index, from a block of indices that belongs to the
seed, so that runs with different seeds share no task.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# Indices of one seed's block in a split without an end: more than a run draws.
SEED_STRIDE = 1_000_000
# Blocks: indices stay below 2**32, which generators that are seeded by the index accept.
SEED_BLOCKS = 4_000


@dataclass(frozen=True, slots=True)
class TaskOrder:
    """The order of one split's tasks under one seed; a pure function of the position.

    Attributes:
        split: the split's name.
        size: how many tasks it has; None means that any index is valid.
        seed: the run's seed.
        start: splits without an end: the first index of seed 0.
        blocks: splits without an end: whether each seed has its own block of `SEED_STRIDE` indices.
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
        """The index of the task at `position`, which counts from 0."""
        if self.size is None:
            return self.start + (self.seed % SEED_BLOCKS) * SEED_STRIDE * self.blocks + position
        epoch, offset = divmod(position, self.size)
        return int(_permutation(self.split, self.size, self.seed, epoch)[offset])


@lru_cache(maxsize=4)
def _permutation(split: str, size: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of range(size), the same with every version of numpy.

    numpy guarantees the raw stream of a bit generator across versions, but not `Generator.permutation`.
    """
    digest = hashlib.blake2b(f"{seed}/{split}/{epoch}".encode(), digest_size=16).digest()
    keys = np.random.PCG64(int.from_bytes(digest, "little")).random_raw(size)
    return np.argsort(keys, kind="stable")
