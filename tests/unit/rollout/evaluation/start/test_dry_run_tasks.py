"""Which tasks a dry run measures."""

import pytest

from arlarena.rollout.evaluation.start.dry_run import evenly_spread


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (1, [0]),
        (7, [0, 1, 2, 3, 4, 5, 6]),
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (15, [0, 1, 3, 5, 7, 9, 11, 13]),
        (23, [0, 2, 5, 8, 11, 14, 17, 20]),
        (64, [0, 8, 16, 24, 32, 40, 48, 56]),
    ],
)
def test_measured_tasks_are_spread_over_all_tasks(tasks: int, expected: list[int]) -> None:
    indices = [100 + number for number in range(tasks)]
    assert evenly_spread(indices, 8) == [100 + number for number in expected]
