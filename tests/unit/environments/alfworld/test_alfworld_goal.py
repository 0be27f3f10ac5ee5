"""Goals of all six kinds of tasks, tested in each state on the way; and the language of goals."""

import random

import pytest
from support.environments.alfworld_support import tiny_game, tiny_problem, tiny_rules, typed

from arlarena.environments.alfworld.engine.goal import changing_predicates, compile_goal
from arlarena.environments.alfworld.engine.pddl import read_expressions, read_problem
from arlarena.environments.alfworld.errors import GameError
from arlarena.environments.alfworld.task_kinds import CLEAN, COOL, HEAT, LIGHT, PICK, TASK_TYPES, TWO, TaskGoal, goal_of

KITCHEN = "(receptacleType Desk_bar_1 CounterTopType)"  # makes the desk a countertop too, so that apples fit there


def won_on_the_way(game, *commands):
    """Whether the goal holds at the start and after each command."""
    found = [game.won]
    for command in commands:
        typed(game, command)
        found.append(game.won)
    return found


def test_pick_and_place():
    game = tiny_game(TaskGoal(PICK, "Apple", "Microwave").pddl())
    assert won_on_the_way(game, "go to countertop 1", "take apple 2 from countertop 1") == [False] * 3
    assert won_on_the_way(game, "go to microwave 1", "open microwave 1") == [False] * 3
    assert won_on_the_way(game, "move apple 2 to microwave 1", "close microwave 1", "go to desk 1") == [
        False,
        *[True] * 3,
    ]


def test_two_things_must_be_in_the_same_receptacle():
    game = tiny_game(TaskGoal(TWO, "Apple", "CounterTop").pddl(), more=KITCHEN)
    typed(game, "go to fridge 1", "open fridge 1", "take apple 1 from fridge 1", "go to desk 1")
    assert won_on_the_way(game, "move apple 1 to desk 1", "take apple 1 from desk 1") == [False] * 3
    assert won_on_the_way(game, "go to countertop 1", "move apple 1 to countertop 1") == [False, False, True]
    assert won_on_the_way(game, "take apple 2 from countertop 1") == [True, False]


def test_the_placed_thing_must_be_the_clean_one():
    game = tiny_game(TaskGoal(CLEAN, "Apple", "CounterTop").pddl())
    typed(game, "go to countertop 1", "take apple 2 from countertop 1", "go to sinkbasin 1")
    assert won_on_the_way(game, "clean apple 2 with sinkbasin 1", "go to countertop 1") == [False] * 3
    assert won_on_the_way(game, "move apple 2 to countertop 1") == [False, True]


def test_a_hot_thing_may_become_cool_again():
    game = tiny_game(TaskGoal(HEAT, "Apple", "Fridge").pddl())
    typed(game, "go to fridge 1", "open fridge 1", "take apple 1 from fridge 1", "go to microwave 1")
    assert won_on_the_way(game, "heat apple 1 with microwave 1", "go to fridge 1") == [False] * 3
    assert won_on_the_way(game, "move apple 1 to fridge 1") == [False, True]
    typed(game, "take apple 1 from fridge 1")
    assert won_on_the_way(game, "cool apple 1 with fridge 1", "move apple 1 to fridge 1") == [False] * 3


def test_a_cool_thing_is_not_cool_once_it_is_hot():
    game = tiny_game(TaskGoal(COOL, "Apple", "Fridge").pddl())
    typed(game, "go to fridge 1", "open fridge 1", "take apple 1 from fridge 1", "go to microwave 1")
    typed(game, "heat apple 1 with microwave 1", "go to fridge 1")
    assert won_on_the_way(game, "move apple 1 to fridge 1", "take apple 1 from fridge 1") == [False] * 3
    assert won_on_the_way(game, "cool apple 1 with fridge 1", "move apple 1 to fridge 1") == [False, False, True]


def test_things_in_a_fridge_at_the_start_are_cool():
    assert tiny_game(TaskGoal(COOL, "Apple", "Fridge").pddl()).won
    assert not tiny_game(TaskGoal(COOL, "Apple", "Fridge").pddl(), without=["(isCool Apple_bar_2)"]).won
    assert not tiny_game(TaskGoal(COOL, "Apple", "Fridge").pddl(), without=["(coolable Apple_bar_2)"]).won


def test_the_lamp_must_be_on_at_the_location_of_the_held_thing():
    game = tiny_game(TaskGoal(LIGHT, "Mug", lamp="DeskLamp").pddl())
    assert won_on_the_way(game, "go to desk 1", "use desklamp 1", "go to countertop 1") == [False] * 4
    assert won_on_the_way(game, "take mug 1 from countertop 1", "go to desk 1") == [False, False, True]
    assert won_on_the_way(game, "move mug 1 to desk 1", "take mug 1 from desk 1") == [True, False, True]
    game = tiny_game(TaskGoal(LIGHT, "Mug", lamp="DeskLamp").pddl())
    typed(game, "go to countertop 1", "take mug 1 from countertop 1")
    assert won_on_the_way(game, "go to desk 1", "use desklamp 1") == [False, False, True]


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_a_goal_of_each_kind_is_read_from_pddl(kind):
    goal = TaskGoal(kind, "Apple", "" if kind == LIGHT else "Fridge", "DeskLamp" if kind == LIGHT else "")
    read = goal_of(read_expressions(goal.pddl())[0])
    assert read == TaskGoal(kind, "apple", goal.receptacle.lower(), goal.lamp.lower())


@pytest.mark.parametrize(
    "goal",
    [
        "(and)",
        "(exists (?o - object) (isSliced ?o))",
        "(exists (?r - receptacle) (opened ?r))",
        "(opened fridge_bar_1)",
    ],
)
def test_other_goals_are_none_of_the_six_kinds(goal):
    with pytest.raises(GameError, match="none of ALFWorld's six kinds"):
        goal_of(read_expressions(goal)[0])


def holds(goal, *commands, more=""):
    """Whether a goal holds after some commands."""
    game = tiny_game(more=more)
    typed(game, *commands)
    problem = read_problem(tiny_problem())
    return compile_goal(read_expressions(goal)[0], game.rules.house, problem.objects)[0](game.state)


OPEN = ("go to fridge 1", "open fridge 1")
TAKEN = ("go to countertop 1", "take mug 1 from countertop 1")


@pytest.mark.parametrize(
    ("goal", "commands", "expected"),
    [
        ("(opened fridge_bar_1)", (), False),
        ("(opened fridge_bar_1)", OPEN, True),
        ("(not (opened fridge_bar_1))", OPEN, False),
        ("(and)", (), True),
        ("(or)", (), False),
        ("(or (opened fridge_bar_1) (opened drawer_bar_1))", OPEN, True),
        ("(and (opened fridge_bar_1) (opened drawer_bar_1))", OPEN, False),
        ("(exists (?a - agent) (holdsAny ?a))", (), False),
        ("(exists (?a - agent) (holdsAny ?a))", TAKEN, True),
        ("(holds agent1 mug_bar_1)", TAKEN, True),
        ("(exists (?l - location) (and (atLocation agent1 ?l) (objectAtLocation Mug_bar_1 ?l)))", TAKEN[:1], True),
        ("(exists (?l - location) (and (atLocation agent1 ?l) (objectAtLocation Mug_bar_1 ?l)))", TAKEN, False),
        (
            "(exists (?x ?y - object) (and (objectType ?x AppleType) (objectType ?y AppleType) (not (= ?x ?y))))",
            (),
            True,
        ),
        ("(exists (?x ?y - object) (and (objectType ?x MugType) (objectType ?y MugType) (not (= ?x ?y))))", (), False),
        ("(exists (?x ?y - object) (and (objectType ?x MugType) (objectType ?y MugType) (= ?x ?y)))", (), True),
        ("(= apple_bar_1 apple_bar_1)", (), True),
        (
            "(exists (?o - object) (and (pickupable ?o) (not (exists (?r - receptacle) (inReceptacle ?o ?r)))))",
            (),
            False,
        ),
        (
            "(exists (?o - object) (and (pickupable ?o) (not (exists (?r - receptacle) (inReceptacle ?o ?r)))))",
            TAKEN,
            True,
        ),
        ("(exists (?o - object) (openable ?o))", (), True),  # the root of all types
        ("(exists (?r - receptacle) (pickupable ?r))", (), False),
        ("(exists (?r - receptacle) (and (openable ?r) (or (opened ?r) (receptacleType ?r DeskType))))", (), False),
        ("(exists (?r - receptacle) (and (openable ?r) (or (opened ?r) (receptacleType ?r DrawerType))))", (), True),
        # The same variable name twice: nested, and in two adjacent quantifiers.
        ("(exists (?o - object) (and (isCool ?o) (exists (?o - object) (toggleable ?o))))", (), True),
        ("(and (exists (?o - object) (isCool ?o)) (exists (?o - object) (toggleable ?o)))", (), True),
        ("(exists (?o - object) (and (isCool ?o) (toggleable ?o)))", (), False),
        ("(heavier apple_bar_1 apple_bar_2)", (), False),
    ],
)
def test_the_language_of_goals(goal, commands, expected):
    assert holds(goal, *commands) is expected


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ("(forall (?o - object) (isClean ?o))", "is not understood"),
        ("word", "'word' is not understood"),
        ("(exists (?o - object) (isOn ?o))", "PDDL goal: this engine does not support 'ison'"),
        ("(checked fridge_bar_1)", "does not support 'checked'"),
    ],
)
def test_a_goal_that_is_not_understood_is_refused(goal, message):
    with pytest.raises(GameError, match=message):
        tiny_rules(goal)


def test_changing_predicates_of_a_goal_are_found():
    goal = read_expressions(TaskGoal(CLEAN, "Apple", "Fridge").pddl())[0]
    assert changing_predicates(goal) == {"isclean", "inreceptacle"}


@pytest.mark.parametrize(
    "goal",
    [
        *(TaskGoal(kind, "Apple", "Microwave").pddl() for kind in (PICK, TWO, CLEAN, HEAT, COOL)),
        TaskGoal(LIGHT, "Mug", lamp="DeskLamp").pddl(),
        "(holds agent1 mug_bar_1)",
        "(not (exists (?a - agent) (holdsAny ?a)))",
        "(exists (?l - location) (and (atLocation agent1 ?l) (objectAtLocation Mug_bar_1 ?l)))",
        "(exists (?o - object) (isSliced ?o))",
        "(and (opened fridge_bar_1) (not (opened drawer_bar_1)))",
    ],
)
def test_the_goal_is_tested_again_if_its_result_may_have_changed(goal):
    game, chance = tiny_game(goal), random.Random(7)
    for _ in range(600):
        game.play(chance.choice(game.menu.commands))
        assert game.won == game.rules.won(game.state)
