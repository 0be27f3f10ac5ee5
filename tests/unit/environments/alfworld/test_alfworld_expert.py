"""The expert: finishes every game within the horizon, and uses only what a player can see."""

import random
from collections import Counter

import pytest
from support.environments.alfworld_support import tiny_game, typed

from arlarena.environment.protocols import ExpertUnavailable
from arlarena.environments.alfworld.content import loaded
from arlarena.environments.alfworld.engine.game import Game
from arlarena.environments.alfworld.expert import Expert, NoPlan
from arlarena.environments.alfworld.houses.generator import SPLITS, HouseOptions
from arlarena.environments.alfworld.houses.made_games import GeneratedGames
from arlarena.environments.alfworld.played_game import AlfworldGame
from arlarena.environments.alfworld.task_kinds import HEAT, PICK, TASK_TYPES, TWO, TaskGoal

HORIZON = 50
SMALL = HouseOptions(things=(6, 12), receptacles=8)


def played(made):
    """Play the expert's commands; returns them and the game at the end."""
    game = Game(made.rules)
    moves = [command for _, command in Expert(made.rules.house, made.goal).moves(game)]
    typed(game, *moves)
    return moves, game


@pytest.mark.parametrize("options", [HouseOptions(), SMALL], ids=["full", "small"])
@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_finishes_every_game_within_the_horizon(split, options):
    kinds = Counter()
    for index in range(60):
        made = GeneratedGames(options, HORIZON, 60).game(split, index)
        moves, game = played(made)
        assert game.won
        assert 0 < len(moves) <= HORIZON
        kinds[made.type] += 1
    assert set(kinds) == set(TASK_TYPES)


def test_the_expert_continues_from_any_state():
    for index in range(30):
        made = GeneratedGames(SMALL, HORIZON, 60).game("train", index)
        game, chance = Game(made.rules), random.Random(index)
        for _ in range(25):
            game.play(chance.choice(list(game.commands)))
        typed(game, *[command for _, command in Expert(made.rules.house, made.goal).moves(game)])
        assert game.won


def shuffled(game, made, chance):
    """The same game with other contents in all receptacles that the player cannot see into.

    Where the task wants things put stays as it is: what is there the player has put there. A lamp can be used in what
    is closed even, so the menu shows it; lamps are moved between other places alone.
    """
    house, state = made.rules.house, game.state.copy()
    here = set(house.receptacles.get(state.location, ()))
    targets = {one for one in house.location_of if f"{made.goal.receptacle}type" in kinds_of(house, one)}
    hidden = sorted(set(house.location_of) - targets - {one for one in here if state.open_to_hands(one)})
    things = {
        one: [thing for thing in state.inside.get(one, ()) if not house.toggleable >> thing & 1] for one in hidden
    }
    lamps = {one: [thing for thing in state.inside.get(one, ()) if house.toggleable >> thing & 1] for one in hidden}
    new = {one: [] for one in hidden}
    for contents, places in ((things, hidden), (lamps, [one for one in hidden if one not in here])):
        others = places.copy()
        chance.shuffle(others)
        moved = dict(zip(places, others, strict=True))
        for one, found in contents.items():
            new[moved.get(one, one)] += found
    state.inside = {**state.inside, **{one: tuple(sorted(found)) for one, found in new.items()}}
    twin = Game(made.rules)
    twin.state, twin.menu = state, made.rules.menu(state)
    twin.feedback = game.feedback
    return twin


def kinds_of(house, receptacle):
    return {house.ids[kind] for one, kind in house.facts["receptacletype"] if one == receptacle}


def test_the_experts_choice_ignores_hidden_contents():
    chance, moved = random.Random(5), 0
    for index in range(24):
        made = GeneratedGames(SMALL, HORIZON, 60).game("valid_unseen", index)
        expert, game = Expert(made.rules.house, made.goal), Game(made.rules)
        while not game.won:
            choice = expert.choose(game)
            for _ in range(3):
                twin = shuffled(game, made, chance)
                moved += twin.state.inside != game.state.inside
                assert expert.choose(twin) == choice
            game.play(choice[1])
    assert moved > 300, "things were moved about"


def test_the_experts_choice_depends_only_on_the_state():
    made = GeneratedGames(SMALL, HORIZON, 60).game("train", 1)
    expert, game = Expert(made.rules.house, made.goal), Game(made.rules)
    moves = [command for _, command in expert.moves(game)]
    for at, command in enumerate(moves):
        assert [one for _, one in Expert(made.rules.house, made.goal).moves(game)] == moves[at:]
        typed(game, command)


def plan(goal, **house):
    game = tiny_game(goal.pddl(), **house)
    made = loaded(game.rules)
    return list(Expert(made.rules.house, made.goal).moves(game))


def test_the_expert_searches_in_the_expected_order():
    assert plan(TaskGoal(HEAT, "Apple", "Fridge")) == [
        ("find apple", "go to countertop 1"),
        ("find apple", "take apple 2 from countertop 1"),
        ("heat apple", "go to microwave 1"),
        ("heat apple", "heat apple 2 with microwave 1"),
        ("put apple in fridge", "go to fridge 1"),
        ("put apple in fridge", "open fridge 1"),
        ("put apple in fridge", "move apple 2 to fridge 1"),
    ]


def test_two_things_go_to_the_same_receptacle():
    assert [command for _, command in plan(TaskGoal(TWO, "Apple", "SinkBasin"))] == [
        "go to countertop 1",
        "take apple 2 from countertop 1",
        "go to sinkbasin 1",
        "move apple 2 to sinkbasin 1",
        "go to countertop 1",
        "go to fridge 1",
        "open fridge 1",
        "take apple 1 from fridge 1",
        "go to sinkbasin 1",
        "move apple 1 to sinkbasin 1",
    ]


def test_another_held_thing_is_put_down():
    game = tiny_game(TaskGoal(PICK, "Apple", "SinkBasin").pddl())
    made = loaded(game.rules)
    typed(game, "go to countertop 1", "take mug 1 from countertop 1", "go to desk 1")
    found = list(Expert(made.rules.house, made.goal).moves(game))
    assert found[0] == ("drop this", "move mug 1 to desk 1")
    assert found[-1] == ("put apple in sinkbasin", "move apple 2 to sinkbasin 1")


def test_an_impossible_task_raises_no_plan():
    with pytest.raises(NoPlan, match="no receptacle is left to visit"):
        plan(TaskGoal(HEAT, "Apple", "SinkBasin"), without=["(receptacleType Microwave_bar_1 MicrowaveType)"])
    with pytest.raises(NoPlan, match="not solved the task after 400 steps"):
        plan(TaskGoal(PICK, "Apple", "SinkBasin"), without=["(pickupable Apple_bar_1)", "(pickupable Apple_bar_2)"])


def test_without_the_native_engine_the_expert_names_the_reason():
    game = AlfworldGame(GeneratedGames(SMALL, HORIZON, 1).game("train", 0), think=True)
    game._loaded = None  # as in a game that only TextWorld can play
    with pytest.raises(ExpertUnavailable, match="the native engine, which cannot play this game"):
        game.plan()
