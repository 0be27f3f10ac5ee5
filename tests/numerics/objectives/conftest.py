"""Rows as plain Python lists, and their conversion to the tensors of a `Batch`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch

from arlarena.trainer.objectives import Batch


@dataclass
class Row:
    """One row (training sequence): the values of its sampled tokens.

    `turns`: (number of tokens, advantage) of each turn. If the row is one turn, `turns` is empty.
    """

    trajectory: int
    advantage: float
    new: list[float]
    old: list[float]
    ref: list[float]
    entropy: list[float]
    turns: list[tuple[int, float]] = field(default_factory=list)

    def credits(self) -> list[tuple[int, float]]:
        """Return (number of tokens, advantage) of each turn, also if the row is one turn."""
        return self.turns or [(len(self.new), self.advantage)]


def random_rows(seed: int, *, spread: float = 0.3, extreme: bool = True) -> list[Row]:
    """Return rows of 5 trajectories with 1 to 4 turns each. One row has no tokens, and one row has an advantage of 0.

    With `extreme`, some log-probs differ so much that their ratios and KL values are clamped.
    """
    rng = random.Random(seed)
    rows = []
    for trajectory in range(5):
        for _ in range(rng.randint(1, 4)):
            n = rng.randint(1, 7)
            old = [-rng.expovariate(1.0) - 0.01 for _ in range(n)]
            new = [value + rng.gauss(0.0, spread) for value in old]
            ref = [value + rng.gauss(0.0, spread) for value in old]
            sampled = [rng.random() < 0.8 or (t == 0 and len(rows) in (3, 4, 5)) for t in range(n)]
            entropy = [rng.expovariate(2.0) for _ in range(n)]
            columns = [list(itertools.compress(column, sampled)) for column in (new, old, ref, entropy)]
            rows.append(Row(trajectory, rng.gauss(0.0, 1.5), *columns))
    rows[1] = Row(rows[1].trajectory, rows[1].advantage, [], [], [], [])
    rows[2].advantage = 0.0
    if extreme:
        rows[3].new[0], rows[3].old[0] = -60.0, -1.0
        rows[4].new[0], rows[4].old[0] = -0.5, -70.0
        rows[5].ref[0] = rows[5].new[0] + 35.0
    return rows


def growing_rows(seed: int) -> list[Row]:
    """Return rows of three turns: the rows of `random_rows` without extreme log-probs, split into turns.

    Each turn has its own advantage. Some turns have no tokens.
    """
    rng = random.Random(seed)
    rows = random_rows(seed, extreme=False)
    for row in rows:
        edges = sorted([0, len(row.new), *(rng.randint(0, len(row.new)) for _ in range(2))])
        row.turns = [(last - first, rng.gauss(0.0, 1.5)) for first, last in itertools.pairwise(edges)]
    return rows


def batch_of(rows: Sequence[Row], *, dtype: torch.dtype = torch.float64, **extra: torch.Tensor) -> Batch:
    """Return the batch of `rows`. The tests read the gradients of `log_probs` and `entropy`."""

    def flat(name: str) -> torch.Tensor:
        return torch.tensor([value for row in rows for value in getattr(row, name)], dtype=dtype)

    return Batch(
        log_probs=flat("new").requires_grad_(),
        old_log_probs=flat("old"),
        ref_log_probs=flat("ref"),
        entropy=flat("entropy").requires_grad_(),
        row_of_token=torch.tensor([i for i, row in enumerate(rows) for _ in row.new], dtype=torch.int64),
        trajectory_of_row=torch.tensor([row.trajectory for row in rows], dtype=torch.int64),
        advantages=torch.tensor([advantage for row in rows for _, advantage in row.credits()], dtype=dtype),
        **{"turn_of_token": turns_of(rows) if any(row.turns for row in rows) else None, **extra},
    )


def turns_of(rows: Sequence[Row]) -> torch.Tensor:
    sizes = [size for row in rows for size, _ in row.credits()]
    return torch.tensor([turn for turn, size in enumerate(sizes) for _ in range(size)], dtype=torch.int64)


@pytest.fixture
def make_growing_rows() -> Callable[..., list[Row]]:
    return growing_rows


@pytest.fixture
def make_rows() -> Callable[..., list[Row]]:
    return random_rows


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    return batch_of


@pytest.fixture
def make_row() -> type[Row]:
    return Row
