"""Generated games: reproducible, of all kinds, in disjoint splits, and equal after writing and reading."""

import functools
import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from arlarena.environment.protocols import TaskError
from arlarena.environments.alfworld.engine.domain import DOMAIN
from arlarena.environments.alfworld.engine.game import Game, read_rules
from arlarena.environments.alfworld.engine.pddl import read_problem
from arlarena.environments.alfworld.houses.generator import SPLITS, HouseOptions, belongs_to, check_options, rooms_of
from arlarena.environments.alfworld.houses.made_games import GeneratedGames, draft_of, file_of
from arlarena.environments.alfworld.houses.rooms import FITS, SEEN, UNSEEN, room
from arlarena.environments.alfworld.task_kinds import LIGHT, TASK_TYPES, TWO

TYPES = ("objectType", "receptacleType")
FULL = HouseOptions()
SMALL = HouseOptions(things=(6, 12), receptacles=8)
HORIZON = 50
MANY = 120  # games per split in tests of many games
PRINT = """
import hashlib
from arlarena.environments.alfworld.houses.generator import HouseOptions
from arlarena.environments.alfworld.houses.made_games import draft_of, file_of
for split, index in (("valid_unseen", 3), ("train", 7), ("train", 0), ("valid_seen", 1)):
    file = file_of(draft_of(split, index, HouseOptions(), 50))
    print(split, index, hashlib.sha256((file.grammar + file.pddl_problem).encode()).hexdigest())
"""


@functools.cache
def drafts(split, options=FULL, count=MANY):
    return [draft_of(split, index, options, HORIZON) for index in range(count)]


def keys(split, options=FULL, count=MANY):
    games = GeneratedGames(options, HORIZON, count)
    return [games.game(split, index).content_key for index in range(count)]


def test_a_game_is_equal_in_every_process_and_order():
    def printed(seed):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    lines = printed("1")
    assert lines == printed("2")
    for line in reversed(lines):
        split, index, digest = line.split()
        file = file_of(draft_of(split, int(index), FULL, HORIZON))
        assert hashlib.sha256((file.grammar + file.pddl_problem).encode()).hexdigest() == digest


def test_a_game_depends_on_its_options_and_its_index():
    one = file_of(draft_of("train", 0, FULL, HORIZON))
    assert one != file_of(draft_of("train", 1, FULL, HORIZON))
    assert one != file_of(draft_of("train", 0, SMALL, HORIZON))
    assert one != file_of(draft_of("valid_seen", 0, FULL, HORIZON))


@pytest.mark.parametrize(
    "options", [pytest.param(FULL, marks=pytest.mark.slow, id="full"), pytest.param(SMALL, id="small")]
)  # slow: five seconds
def test_training_and_validation_share_rooms_but_no_games(options):
    train, seen = keys("train", options), keys("valid_seen", options)
    assert not set(train) & set(seen)
    assert all(belongs_to(key, "train") and not belongs_to(key, "valid_seen") for key in train)
    assert all(belongs_to(key, "valid_seen") and not belongs_to(key, "train") for key in seen)
    assert len(set(train)) > 0.95 * MANY, "games hardly ever come twice"


def test_the_rooms_of_unseen_games_occur_nowhere_else():
    played = {split: {draft.room.number for draft in drafts(split)} for split in SPLITS}
    assert played["train"] & played["valid_seen"]
    assert not played["valid_unseen"] & (played["train"] | played["valid_seen"])
    for split, numbers in played.items():
        assert numbers <= set(rooms_of(split))
    assert not set(SEEN) & set(UNSEEN)
    assert len(SEEN) + len(UNSEEN) == 120


@pytest.mark.parametrize("split", SPLITS)
def test_all_six_kinds_of_tasks_occur_and_none_rarely(split):
    counts = Counter(draft.goal.type for draft in drafts(split))
    assert set(counts) == set(TASK_TYPES)
    assert min(counts.values()) > MANY / 6 / 4


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_task_types_select_the_kind(kind):
    options = replace(SMALL, types=(kind,))
    assert {draft.goal.type for draft in drafts("train", options, 10)} == {kind}


def test_a_problem_equals_its_parsed_text():
    for split in SPLITS:
        for draft in drafts(split, count=20):
            assert read_problem(draft.text("any")) == draft.problem()


def test_a_game_equals_the_game_of_its_file():
    for index in range(10):
        made = GeneratedGames(FULL, HORIZON, 10).game("train", index)
        file = file_of(draft_of("train", index, FULL, HORIZON))
        rules = read_rules(DOMAIN, file.grammar, file.pddl_problem)
        ours, read = Game(made.rules), Game(rules)
        assert (ours.feedback, ours.commands, ours.state.key) == (read.feedback, read.commands, read.state.key)


@pytest.mark.parametrize("split", SPLITS)
def test_things_fit_their_receptacles_and_no_task_is_solved_at_the_start(split):
    for draft in drafts(split, count=60):
        kinds = {fact[1]: fact[2].removesuffix("Type") for fact in draft.facts if fact[0].endswith("Type")}
        for name, thing, holder in (fact for fact in draft.facts if fact[0] == "inReceptacle"):
            lamp = kinds[thing] in ("DeskLamp", "FloorLamp")
            assert name == "inReceptacle"
            assert lamp or kinds[thing] in FITS[kinds[holder]], (kinds[thing], kinds[holder])
        wanted = [thing for thing, kind in kinds.items() if kind == draft.goal.thing]
        assert len(wanted) >= (2 if draft.goal.type == TWO else 1)


def test_options_bound_the_things_and_receptacles_of_a_house():
    for draft in drafts("train", SMALL, 60):
        receptacles = [fact for fact in draft.facts if fact[0] == "receptacleAtLocation"]
        things = [fact for fact in draft.facts if fact[0] == "pickupable"]
        assert 4 <= len(receptacles) <= 8
        assert 2 <= len(things) <= 12
    assert max(len(draft.room.fixtures) for draft in drafts("train", count=60)) > 20


def test_instances_bound_the_number_per_kind():
    things, receptacles = Counter(), Counter()
    for draft in drafts("train", HouseOptions(things=(6, 10), receptacles=6, instances=1), 300):
        kinds = {what: kind for name, what, kind in (fact for fact in draft.facts if len(fact) == 3) if name in TYPES}
        portable = Counter(kinds[fact[1]] for fact in draft.facts if fact[0] == "pickupable")
        standing = Counter(kinds[fact[1]] for fact in draft.facts if fact[0] == "receptacleAtLocation")
        things[draft.goal.type] = max(things[draft.goal.type], *portable.values())
        receptacles[draft.goal.type] = max(receptacles[draft.goal.type], *standing.values())
    assert things == {kind: 2 if kind == TWO else 1 for kind in TASK_TYPES}
    # The receptacles of the lamp and of the thing may be of the same kind.
    assert receptacles == {kind: 2 if kind == LIGHT else 1 for kind in TASK_TYPES}


def test_rooms_are_cached_and_unchanged():
    for number in (1, 212, 305, 430):
        first, again = room(number), room.__wrapped__(number)
        assert first == again
        assert len({fixture.id for fixture in first.fixtures}) == len(first.fixtures)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (HouseOptions(types=()), "task_types: at least one kind of tasks is needed; known:"),
        (HouseOptions(types=("juggle",)), "task_types: unknown kinds of tasks juggle; known:"),
        (HouseOptions(things=(1, 5)), r"things = \[1, 5\]: the first value must be at least 2"),
        (HouseOptions(things=(9, 5)), r"things = \[9, 5\]"),
        (HouseOptions(receptacles=3), "receptacles = 3: must be at least 4, because a task may need 4"),
    ],
)
def test_options_that_allow_no_game_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_options(options)


def test_options_without_a_valid_draft_are_a_task_error(monkeypatch):
    monkeypatch.setattr("arlarena.environments.alfworld.houses.made_games.MAX_DRAFTS", 20)
    with pytest.raises(TaskError, match="no game for train/0 in 20 attempts, because the options allow too few games"):
        draft_of("train", 0, HouseOptions(things=(40, 45)), 1)
