"""The curriculum restarts in each seed's block of training tasks."""

import pytest

from arlarena.environments.sokoban.options import read_options
from arlarena.proto.config import ConfigError
from arlarena.proto.task_order import SEED_STRIDE, TaskOrder

OPTIONS = {"size": 7, "max_pushes": 5, "curriculum": {"first": 1_000, "tasks": 80}}


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_bound_on_pushes_rises_from_the_first_task_of_every_seed(seed: int) -> None:
    options = read_options("test", OPTIONS)
    order = TaskOrder("train", None, seed, start=1_000)
    bounds = [options.rooms_at("train", order.index(position)).max_pushes for position in (0, 40, 80, 81, 5_000)]
    assert bounds == [1, 3, 5, 5, 5]


def test_tasks_before_the_first_are_the_easiest() -> None:
    options = read_options("test", OPTIONS)
    assert [options.rooms_at("train", index).max_pushes for index in (0, 999)] == [1, 1]
    assert options.rooms_at("test", 5).max_pushes == 5


def test_a_curriculum_longer_than_a_seeds_block_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"curriculum\.tasks = 1000001"):
        read_options("test", OPTIONS | {"curriculum": {"tasks": SEED_STRIDE + 1}})
