"""States: tracked facts, copies, and keys."""

import random

import pytest
from support.environments.alfworld_support import tiny_rules

from arlarena.environments.alfworld.engine.game import Game
from arlarena.environments.alfworld.engine.state import NOTHING, WorldState, check_predicates
from arlarena.environments.alfworld.errors import GameError

CHANGING = ("atlocation", "opened", "inreceptacle", "objectatlocation", "holds", "holdsany")
MARKS = ("isclean", "ishot", "iscool", "issliced", "istoggled")


@pytest.fixture
def state():
    return WorldState(tiny_rules().house)


@pytest.fixture
def of(state):
    """The number of a thing by its name."""
    return {name: number for number, name in enumerate(state.house.names)}


def at(state, of, receptacle):
    state.go(state.house.location_of[of[receptacle]])
    return of[receptacle]


def test_a_copy_is_independent_both_ways(state, of):
    key = state.key
    twin = state.copy()
    assert twin.key == key
    counter = at(twin, of, "countertop 1")
    twin.take(of["mug 1"], counter)
    twin.mark("ishot", of["apple 1"], off="iscool")
    twin.turn(of["fridge 1"], is_open=True)
    assert state.key == key
    after = twin.key
    state.take(of["apple 2"], at(state, of, "countertop 1"))
    state.mark("isclean", of["mug 1"])
    assert twin.key == after
    assert (state.held, twin.held) == (of["apple 2"], of["mug 1"])


def test_the_key_differs_for_every_difference(state, of):
    counter, drawer = of["countertop 1"], of["drawer 1"]
    keys = {state.key}

    def different(change):
        twin = state.copy()
        change(twin)
        keys.add(twin.key)

    changes = [lambda one, name=name: at(one, of, name) for name in ("countertop 1", "fridge 1", "desk 1")]
    changes += [lambda one, r=r: one.turn(of[r], is_open=True) for r in ("fridge 1", "drawer 1")]
    changes += [lambda one, mark=mark: one.mark(mark, of["mug 1"]) for mark in MARKS]
    changes += [lambda one: one.mark("isclean", of["apple 1"])]
    changes += [
        lambda one, thing=thing: (at(one, of, "countertop 1"), one.take(of[thing], counter))
        for thing in ("mug 1", "apple 2")
    ]
    changes += [
        lambda one, to=to: (at(one, of, "countertop 1"), one.take(of["mug 1"], counter), one.put(to))
        for to in (counter, drawer)
    ]
    for change in changes:
        different(change)
    # Putting the thing back restores the state, except for the player's location, which is a separate difference.
    assert len(keys) == 1 + len(changes) - 1


def test_the_key_has_no_counter(state, of):
    counter = at(state, of, "countertop 1")
    state.mark("ishot", of["mug 1"])
    key = state.key
    for _ in range(3):
        state.take(of["mug 1"], counter)
        assert state.key != key
        state.put(counter)
        assert state.key == key
        for is_open in (True, True, False, False):
            state.turn(of["drawer 1"], is_open=is_open)
        state.mark("iscool", of["mug 1"], off="ishot")
        assert state.key != key
        state.mark("ishot", of["mug 1"], off="iscool")
    assert state.key == key


def written(state):
    """A state without its key; an empty place equals a place that never had contents."""
    contents = [sorted((place, things) for place, things in one.items() if things) for one in (state.inside, state.at)]
    marks = sorted(state.marks.items())
    return repr((state.location, state.held, state.opened, state.removed, *contents, marks))


def test_keys_are_equal_if_and_only_if_states_are():
    rules, keys = tiny_rules(), {}
    for seed in range(40):
        game, chance = Game(rules), random.Random(seed)
        for _ in range(200):
            game.play(chance.choice(game.menu.commands))
            keys.setdefault(written(game.state), set()).add(game.state.key)
    assert len(keys) > 2000
    assert all(len(found) == 1 for found in keys.values())
    assert len({key for found in keys.values() for key in found}) == len(keys)


def test_the_key_does_not_depend_on_the_path(state, of):
    counter, sink = of["countertop 1"], of["sinkbasin 1"]
    keys = set()
    for order in (("mug 1", "apple 2"), ("apple 2", "mug 1")):
        twin = state.copy()
        for thing in order:
            at(twin, of, "countertop 1")
            twin.take(of[thing], counter)
            at(twin, of, "sinkbasin 1")
            twin.put(sink)
        assert twin.inside[sink] == tuple(sorted((of["mug 1"], of["apple 2"])))
        keys.add(twin.key)
    assert len(keys) == 1


def test_removals_are_tracked_where_receptacles_share_a_location(state, of):
    counter = at(state, of, "countertop 1")
    state.take(of["mug 1"], counter)
    assert state.removed == ((of["mug 1"], counter),)
    assert list(state.rows("not_inreceptacle", (None, None))) == [(of["mug 1"], counter)]
    desk = at(state, of, "desk 1")
    state.put(desk)
    state.take(of["mug 1"], desk)
    assert state.removed == ((of["mug 1"], counter),), "the desk stands alone"
    at(state, of, "countertop 1")
    state.put(counter)
    assert state.removed == ()


def test_taking_changes_one_receptacle_and_one_location(state, of):
    fridge = at(state, of, "fridge 1")
    state.take(of["apple 1"], fridge)
    assert (state.held, state.inside[fridge], state.at[state.location]) == (of["apple 1"], (), ())
    assert list(state.rows("holds", (None, None))) == [(state.house.agent, of["apple 1"])]
    state.put(fridge)
    assert (state.held, state.inside[fridge]) == (NOTHING, (of["apple 1"],))


def test_holds_and_rows_agree(state, of):
    state.take(of["mug 1"], at(state, of, "countertop 1"))
    state.opened |= 1 << of["drawer 1"]
    everything = range(len(state.house.ids))
    for predicate in (*CHANGING, *MARKS, "not_inreceptacle", "openable", "receptacletype", "cancontain", "unheard_of"):
        single = predicate in ("opened", "holdsany", "openable", *MARKS)
        candidates = (
            [(one,) for one in everything] if single else [(one, two) for one in everything for two in everything]
        )
        rows = list(state.rows(predicate, (None,) if single else (None, None)))
        assert rows == [values for values in candidates if state.holds(predicate, values)], predicate
        for values in rows:
            pattern = (values[0],) if single else (None, values[1])
            assert values in state.rows(predicate, pattern)


@pytest.mark.parametrize("name", ["ison", "checked", "examined", "full", "wasinreceptacle", "not_opened", "not_holds"])
def test_untracked_predicates_are_refused(name):
    with pytest.raises(GameError, match=f"here: this engine does not support '{name}'"):
        check_predicates(frozenset((name,)), "here")


def test_tracked_and_static_predicates_are_accepted():
    check_predicates(
        frozenset((*CHANGING, *MARKS, "not_inreceptacle", "not_istoggled", "openable", "anything")), "here"
    )
