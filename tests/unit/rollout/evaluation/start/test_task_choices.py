"""Which tasks --split, --first, --count and --tasks choose."""

import pytest

from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import Info, Parser, Split, Template
from arlarena.rollout.evaluation.start.tasks import TaskChoice, parse_indices

TRAIN, TEST = Split("train", "train", None, False), Split("test", "test", 20, True)
SEEN, UNSEEN = Split("valid_seen", "validation", 5, True), Split("valid_unseen", "test", 7, True)


def info(*splits):
    return Info("game", "1", "", Template("t", "1", ""), Parser("1", [], "p"), {}, 9, None, list(splits), {}, [])


def test_a_list_has_indices_and_ranges_with_both_ends_in_its_order():
    assert parse_indices("7, 0,20-23") == (7, 0, 20, 21, 22, 23)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is neither an index"),
        ("1,", "'' is neither an index"),
        ("-1", "'-1' is neither an index"),
        ("3-x", "'3-x' is neither an index"),
        ("9-3", "ends before it begins"),
        ("4,1-5", "task 4 is given twice"),
        ("0-99999999999", "more than 1,000,000 tasks"),
    ],
)
def test_an_invalid_list_is_refused_with_the_wrong_part(text, message):
    with pytest.raises(ConfigError, match=r"--tasks") as caught:
        TaskChoice(tasks=text).check()
    assert message in str(caught.value)


@pytest.mark.parametrize("choice", [TaskChoice(tasks="1", first=2), TaskChoice(tasks="1", count=2)])
def test_a_list_excludes_first_and_count(choice):
    with pytest.raises(ConfigError, match=r"leave out --first and --count"):
        choice.check()


def test_the_default_split_is_test_or_the_only_evaluation_split():
    assert TaskChoice().split_of(info(TRAIN, TEST, SEEN)) is TEST
    assert TaskChoice().split_of(info(TRAIN, SEEN)) is SEEN
    assert TaskChoice("train").split_of(info(TRAIN, TEST)) is TRAIN
    with pytest.raises(ConfigError, match=r"give --split, one of train, valid_seen, valid_unseen"):
        TaskChoice().split_of(info(TRAIN, SEEN, UNSEEN))
    with pytest.raises(ConfigError, match=r"--split valid_sen: game has no such split.*did you mean 'valid_seen'"):
        TaskChoice("valid_sen").split_of(info(TRAIN, SEEN, UNSEEN))


def test_first_and_count_choose_a_range_and_all_is_the_default():
    assert TaskChoice().indices(info(TRAIN, TEST)) == tuple(range(20))
    assert TaskChoice(first=18).indices(info(TRAIN, TEST)) == (18, 19)
    assert TaskChoice(first=3, count=2).indices(info(TRAIN, TEST)) == (3, 4)
    assert TaskChoice("train", 1_000_000, 1).indices(info(TRAIN, TEST)) == (1_000_000,)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (TaskChoice(first=19, count=2), "has 20 tasks, so the last index is 19, not 20"),
        (TaskChoice(tasks="0,20"), "has 20 tasks, so the last index is 19, not 20"),
        (TaskChoice(first=20), "no task of split 'test' of game is chosen"),
        (TaskChoice("train"), "split 'train' of game has no end: give --count or --tasks"),
    ],
)
def test_tasks_outside_the_split_are_refused(choice, message):
    with pytest.raises(ConfigError) as caught:
        choice.indices(info(TRAIN, TEST))
    assert message in str(caught.value)
