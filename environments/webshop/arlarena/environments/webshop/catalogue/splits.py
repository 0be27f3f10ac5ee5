"""Splits goals into train, validation and test. No training goal has the same product and options as a goal of another
split.
"""

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
SEED = 233  # the seed of the shuffle in WebShop's code (class SimServer)
TEST, VALIDATION = 500, 1000  # sizes in WebShop's paper: goals 0 to 499 for test, goals 500 to 1499 for validation
# If there are fewer goals, a sixth of the goals are for test and a third for validation, so that half remain for
# training.
FEWEST = 2 * (TEST + VALIDATION)
SHARES = {"train": 8, "validation": 1, "test": 1}  # for `hashed_splits`: how many tenths of all keys each split has


def official_splits(products: Goals, key: Callable[[int], Hashable]) -> dict[str, Goals]:
    """Shuffle the goals as WebShop's code does, and cut the shuffled list into splits.

    Training goals whose key occurs in test or validation are left out.

    Args:
        products: the number of each goal's product; shape [goals].
        key: returns the key of a goal (its product and options) by the goal's number. It is called only for goals of
            products that have a goal in test or validation.

    Returns:
        the numbers of the goals in each split.
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
    """Assign each of `count` goals to a split by the hash of its key. Goals with equal keys are in the same split.
    Return the numbers of the goals in each split. `key`: returns the key of a goal by the goal's number.
    """
    members: dict[str, list[int]] = {name: [] for name in NAMES}
    for number in range(count):
        members[split_of_digest(digest(key(number)), SHARES)].append(number)
    return {name: np.array(numbers, np.int64) for name, numbers in members.items()}
