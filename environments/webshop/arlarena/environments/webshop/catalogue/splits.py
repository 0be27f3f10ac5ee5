"""Splits of goals into train, validation and test. No training goal has product and options of another split's goal."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from arlarena.environment.hashing import digest, split_of_digest

Goals = NDArray[np.signedinteger[Any]]
Method = Literal["official", "hash"]

NAMES = ("train", "validation", "test")
SEED = 233  # the original's, in SimServer
TEST, VALIDATION = 500, 1000  # the paper's: goals 0 to 499, and 500 to 1499
# With fewer goals than this, test and validation are a sixth and a third, so that half are left for training.
FEWEST = 2 * (TEST + VALIDATION)
SHARES = {"train": 8, "validation": 1, "test": 1}  # tenths of a generated catalogue


def official_splits(products: Goals, key: Callable[[int], Hashable]) -> dict[str, Goals]:
    """Shuffle the goals as the original does, and cut the order into splits.

    Training goals whose key occurs in test or validation are left out.

    Args:
        products: the product of each goal [goals].
        key: returns the key of a goal: product and options. It is called for goals whose product has a goal in test or
            validation only.
    """
    count = len(products)
    shuffled = list(range(count))
    random.Random(SEED).shuffle(shuffled)
    order = np.array(shuffled, np.int64)
    test, validation = (TEST, VALIDATION) if count >= FEWEST else (count // 6, count // 3)
    train, evaluation = order[test + validation :], order[: test + validation]
    taken = {key(int(number)) for number in evaluation}
    shared = np.isin(products[train], products[evaluation])
    leaking = [place for place in np.flatnonzero(shared) if key(int(train[place])) in taken]
    return {"train": np.delete(train, leaking), "validation": order[test : test + validation], "test": order[:test]}


def hashed_splits(count: int, key: Callable[[int], str]) -> dict[str, Goals]:
    """Assign each goal by the hash of its key. Goals with the same key are in the same split."""
    members: dict[str, list[int]] = {name: [] for name in NAMES}
    for number in range(count):
        members[split_of_digest(digest(key(number)), SHARES)].append(number)
    return {name: np.array(numbers, np.int64) for name, numbers in members.items()}
