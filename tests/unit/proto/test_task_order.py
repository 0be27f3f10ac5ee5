from itertools import combinations

import pytest

from arlarena.proto.task_order import SEED_STRIDE, TaskOrder

SEEDS = (0, 1, 2)
GOLDEN_LARGE = [2754, 1898, 3541]


def drawn(order, count):
    return [order.index(position) for position in range(count)]


@pytest.mark.parametrize("size", [1, 2, 40, 3553])
def test_each_epoch_of_a_finite_split_has_each_task_once(size):
    order = TaskOrder("train", size, seed=0)
    for epoch in range(3):
        assert sorted(order.index(epoch * size + offset) for offset in range(size)) == list(range(size))


def test_epochs_seeds_and_splits_have_different_orders():
    orders = [drawn(TaskOrder(split, 40, seed), 80) for split in ("train", "other") for seed in SEEDS]
    epochs = [tuple(order[start : start + 40]) for order in orders for start in (0, 40)]
    assert len(set(epochs)) == len(epochs)


def test_the_order_is_the_same_with_every_version_of_numpy():
    """Golden values: a resumed run must continue in the same order."""
    assert drawn(TaskOrder("train", 5, seed=0), 15) == [4, 1, 3, 2, 0, 2, 1, 3, 4, 0, 3, 1, 4, 2, 0]
    assert drawn(TaskOrder("train", 3553, seed=7), 3) == GOLDEN_LARGE


def test_sorted_tasks_are_shuffled():
    """Official games are sorted by type: six types of equal size, of which the first 16 tasks must contain most."""
    kinds = [index // 600 for index in drawn(TaskOrder("train", 3600, seed=0), 16)]
    assert len(set(kinds)) >= 5


def test_seeds_have_no_task_of_an_endless_split_in_common():
    sets = [set(drawn(TaskOrder("train", None, seed, start=1_000_000), 1000)) for seed in SEEDS]
    assert not any(one & other for one, other in combinations(sets, 2))
    assert min(sets[0]) == 1_000_000
    assert min(sets[2]) == 1_000_000 + 2 * SEED_STRIDE


@pytest.mark.parametrize("seed", [0, 3_999, 4_000, 2**63])
def test_indices_of_an_endless_split_fit_into_32_bits(seed):
    order = TaskOrder("train", None, seed, start=1_000_000)
    assert 0 <= order.index(SEED_STRIDE - 1) < 2**32


def test_without_blocks_every_seed_starts_at_the_start_index():
    assert drawn(TaskOrder("train", None, 5, start=3, blocks=False), 4) == [3, 4, 5, 6]


def test_a_split_without_tasks_is_refused():
    with pytest.raises(ValueError, match="split 'train' has no tasks"):
        TaskOrder("train", 0, seed=0)
