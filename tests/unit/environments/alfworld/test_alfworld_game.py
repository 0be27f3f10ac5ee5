"""Every action in a hand-written house: when it is possible, its response, and its effect."""

import random
import re

import pytest
from support.environments.alfworld_support import tiny_game, tiny_problem, tiny_rules, typed

from arlarena.environments.alfworld.engine import answer_cache as answers
from arlarena.environments.alfworld.engine import game as engine
from arlarena.environments.alfworld.engine.domain import DOMAIN, GRAMMAR
from arlarena.environments.alfworld.engine.game import NOTHING_HAPPENS, Game, read_rules
from arlarena.environments.alfworld.errors import GameError

ALWAYS = {"help", "inventory", "look"}
WAYS = {f"go to {one} 1" for one in ("countertop", "desk", "drawer", "fridge", "microwave", "sinkbasin")}


def here(game):
    """The commands that are specific to the current location."""
    return {command for command in game.commands if command not in ALWAYS and not command.startswith("go to")}


def test_the_introduction_has_the_room_and_the_task():
    game = tiny_game()
    assert game.feedback == (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see "
        "a countertop 1, a desk 1, a drawer 1, a fridge 1, a microwave 1, and a sinkbasin 1.\n\n"
        "Your task is to: UNKNOWN GOAL."
    )
    assert list(game.commands) == sorted(ALWAYS | WAYS)
    assert not game.won


def test_going_to_a_receptacle_shows_its_contents_and_reaches_its_neighbours():
    game = tiny_game()
    assert typed(game, "go to countertop 1") == [
        "You arrive at countertop 1. On the countertop 1, you see a apple 2, and a mug 1."
    ]
    assert {c for c in game.commands if c.startswith("go to")} == WAYS - {"go to countertop 1", "go to drawer 1"}
    assert here(game) == {
        "examine countertop 1",
        "examine drawer 1",
        "open drawer 1",
        "take apple 2 from countertop 1",
        "take mug 1 from countertop 1",
    }
    assert typed(game, "go to fridge 1", "go to drawer 1") == [
        "You arrive at fridge 1. The fridge 1 is closed.",
        "You arrive at drawer 1. The drawer 1 is closed.",
    ]


def test_receptacles_open_and_close():
    game = tiny_game()
    typed(game, "go to fridge 1")
    assert here(game) == {"examine fridge 1", "open fridge 1"}
    assert typed(game, "examine fridge 1", "open fridge 1", "examine fridge 1") == [
        "The fridge 1 is closed.",
        "You open the fridge 1. The fridge 1 is open. In it, you see a apple 1.",
        "The fridge 1 is open. In it, you see a apple 1.",
    ]
    assert here(game) == {"examine fridge 1", "close fridge 1", "take apple 1 from fridge 1"}
    assert typed(game, "close fridge 1", "examine fridge 1") == ["You close the fridge 1.", "The fridge 1 is closed."]


def test_one_thing_at_a_time_is_taken_and_put_where_it_fits():
    game = tiny_game()
    assert typed(game, "inventory", "go to countertop 1", "take mug 1 from countertop 1", "inventory") == [
        "You are not carrying anything.",
        "You arrive at countertop 1. On the countertop 1, you see a apple 2, and a mug 1.",
        "You pick up the mug 1 from the countertop 1.",
        "You are carrying: a mug 1.",
    ]
    assert not [command for command in game.commands if command.startswith("take")]
    assert "move mug 1 to countertop 1" in game.commands
    assert "move mug 1 to drawer 1" not in game.commands, "it is closed"
    assert typed(game, "examine countertop 1", "open drawer 1", "move mug 1 to drawer 1", "examine drawer 1") == [
        "On the countertop 1, you see a apple 2.",
        "You open the drawer 1. The drawer 1 is open. In it, you see a knife 1.",
        "You move the mug 1 to the drawer 1.",
        "The drawer 1 is open. In it, you see a knife 1, and a mug 1.",
    ]
    typed(game, "take knife 1 from drawer 1", "go to fridge 1", "open fridge 1")
    assert "move knife 1 to fridge 1" not in game.commands, "it does not fit"


def test_look_shows_things_moved_between_receptacles_of_one_location():
    game = tiny_game()
    facing = "You are facing the countertop 1, and drawer 1. Next to it, you see"
    assert typed(game, "look") == ["You are in the middle of a room. Looking quickly around you, you see nothing."]
    assert typed(game, "go to countertop 1", "look")[1] == f"{facing} nothing."
    typed(game, "open drawer 1", "take mug 1 from countertop 1")
    assert typed(game, "look") == [f"{facing} nothing."], "it is in the hand"
    assert typed(game, "move mug 1 to drawer 1", "look")[1] == f"{facing} a mug 1."
    assert typed(game, "take mug 1 from drawer 1", "move mug 1 to drawer 1", "look")[2] == f"{facing} a mug 1."
    assert typed(game, "take mug 1 from drawer 1", "move mug 1 to countertop 1", "look")[2] == f"{facing} a mug 1."
    typed(game, "take mug 1 from countertop 1", "go to desk 1", "move mug 1 to desk 1")
    assert typed(game, "look") == ["You are facing the desk 1. Next to it, you see nothing."]


def test_clean_heat_and_cool_need_the_held_thing_and_the_right_receptacle():
    game = tiny_game()
    typed(game, "go to sinkbasin 1")
    assert here(game) == {"examine sinkbasin 1"}
    typed(game, "go to countertop 1", "take apple 2 from countertop 1", "go to sinkbasin 1")
    assert here(game) == {
        "examine sinkbasin 1",
        "examine apple 2",
        "move apple 2 to sinkbasin 1",
        "clean apple 2 with sinkbasin 1",
    }
    assert typed(game, "clean apple 2 with sinkbasin 1", "go to microwave 1", "heat apple 2 with microwave 1") == [
        "You clean the apple 2 using the sinkbasin 1.",
        "You arrive at microwave 1. The microwave 1 is closed.",
        "You heat the apple 2 using the microwave 1.",
    ]
    assert typed(game, "examine apple 2", "go to fridge 1", "cool apple 2 with fridge 1", "examine apple 2") == [
        "This is a hot and clean apple 2.",
        "You arrive at fridge 1. The fridge 1 is closed.",
        "You cool the apple 2 using the fridge 1.",
        "This is a cool and clean apple 2.",
    ]


def test_heating_and_cooling_undo_each_other_and_can_be_repeated():
    game = tiny_game()
    typed(game, "go to fridge 1", "open fridge 1", "take apple 1 from fridge 1")
    assert typed(game, "examine apple 1", "cool apple 1 with fridge 1", "examine apple 1") == [
        "This is a cold apple 1.",
        "You cool the apple 1 using the fridge 1.",
        "This is a cold apple 1.",
    ]
    typed(game, "go to microwave 1", "heat apple 1 with microwave 1")
    assert typed(game, "examine apple 1", "heat apple 1 with microwave 1", "examine apple 1")[::2] == [
        "This is a hot apple 1.",
        "This is a hot apple 1.",
    ]
    assert (
        typed(game, "go to fridge 1", "cool apple 1 with fridge 1", "examine apple 1")[2] == "This is a cold apple 1."
    )


def test_not_everything_can_be_cleaned_or_heated():
    game = tiny_game()
    typed(game, "go to countertop 1", "take mug 1 from countertop 1", "go to microwave 1")
    assert here(game) == {"examine microwave 1", "examine mug 1", "open microwave 1"}
    typed(game, "go to sinkbasin 1")
    assert "clean mug 1 with sinkbasin 1" in game.commands


def test_a_lamp_can_be_toggled_repeatedly_even_in_a_closed_receptacle():
    game = tiny_game()
    assert typed(game, "go to desk 1", "use desklamp 1", "use desklamp 1")[1:] == ["You turn on the desklamp 1."] * 2
    assert "take desklamp 1 from desk 1" not in game.commands, "it cannot be picked up"
    away = ["(inReceptacle DeskLamp_bar_1 Desk_bar_1)", "(objectAtLocation DeskLamp_bar_1 loc_5)"]
    game = tiny_game(more="(inReceptacle DeskLamp_bar_1 Drawer_bar_1)", without=away)
    assert typed(game, "go to drawer 1", "use desklamp 1") == [
        "You arrive at drawer 1. The drawer 1 is closed.",
        "You turn on the desklamp 1.",
    ]


def test_slicing_needs_a_held_knife_and_a_sliceable_thing_at_the_location():
    game = tiny_game()
    typed(game, "go to countertop 1", "open drawer 1", "take knife 1 from drawer 1")
    assert "slice apple 2 with knife 1" in game.commands
    assert typed(game, "go to fridge 1", "open fridge 1")
    assert "slice apple 1 with knife 1" not in game.commands, "this one is not to be sliced"
    assert (
        typed(game, "go to drawer 1", "slice apple 2 with knife 1", "slice apple 2 with knife 1")[1:]
        == ["You sliced the apple 2 with the knife 1."] * 2
    )
    typed(game, "move knife 1 to drawer 1", "take apple 2 from countertop 1")
    assert typed(game, "examine apple 2") == ["This is a sliced apple 2."]
    assert typed(game, "go to microwave 1", "heat apple 2 with microwave 1", "examine apple 2")[2] == (
        "This is a hot sliced apple 2."
    )


def test_a_knife_of_two_types_is_a_knife():
    game = tiny_game(more="(objectType Knife_bar_1 ButterKnifeType)")
    typed(game, "go to countertop 1", "open drawer 1", "take knife 1 from drawer 1")
    assert [command for command in game.commands if command.startswith("slice")] == ["slice apple 2 with knife 1"]


def test_only_the_held_thing_can_be_examined_and_bowls_show_contents():
    game = tiny_game(more="(inReceptacleObject Knife_bar_1 Mug_bar_1)")
    typed(game, "go to countertop 1")
    assert not {"examine mug 1", "examine apple 2"} & set(game.commands)
    typed(game, "take mug 1 from countertop 1")
    assert typed(game, "examine mug 1") == ["This is a normal mug 1. In it, you see a knife 1."]
    typed(game, "open drawer 1", "move mug 1 to drawer 1", "take knife 1 from drawer 1")
    assert typed(game, "examine knife 1") == ["There's nothing special about knife 1."]


def test_help_lists_the_commands_if_the_game_has_it():
    assert typed(tiny_game(), "help")[0].startswith("Available commands:\n  look:")
    older = DOMAIN.replace(DOMAIN[DOMAIN.index("(:action help") : DOMAIN.index("(:action examineReceptacle")], "")
    game = tiny_game(domain=older)
    assert set(game.commands) == WAYS | ALWAYS - {"help"}
    assert game.play("help") == NOTHING_HAPPENS


@pytest.mark.parametrize(
    "command",
    ["", "dance", "take apple 1 from fridge 1", "open fridge 1", "GO TO FRIDGE 1", "go to  fridge 1", "go to"],
)
def test_an_inadmissible_command_changes_nothing(command):
    game = tiny_game()
    typed(game, "go to countertop 1")
    before = game.state.key, list(game.commands)
    assert game.play(command) == NOTHING_HAPPENS == game.feedback
    assert (game.state.key, list(game.commands)) == before


def test_white_space_around_a_command_does_not_matter():
    game = tiny_game()
    assert game.play("  go to fridge 1 \n") == "You arrive at fridge 1. The fridge 1 is closed."


def test_the_goal_can_be_reached_and_lost_again():
    game = tiny_game()
    typed(game, "go to countertop 1", "take apple 2 from countertop 1", "go to sinkbasin 1")
    assert not game.won
    typed(game, "move apple 2 to sinkbasin 1")
    assert game.won
    typed(game, "look", "examine sinkbasin 1")
    assert game.won
    typed(game, "take apple 2 from sinkbasin 1")
    assert not game.won


def test_a_thing_in_two_receptacles_stays_in_one_of_them():
    game = tiny_game(more="(inReceptacle Mug_bar_1 Desk_bar_1)")
    typed(game, "go to countertop 1", "take mug 1 from countertop 1")
    assert typed(game, "inventory", "go to desk 1") == [
        "You are carrying: a mug 1.",
        "You arrive at desk 1. On the desk 1, you see a desklamp 1, and a mug 1.",
    ]
    assert typed(game, "move mug 1 to desk 1", "take mug 1 from desk 1", "examine desk 1")[2] == (
        "On the desk 1, you see a desklamp 1."
    )


def test_a_player_who_starts_at_a_receptacle_sees_it():
    game = tiny_game(more="(atLocation agent1 loc_5)", without=["(atLocation agent1 loc_0)"])
    assert "\n\nYou are facing the desk 1. Next to it, you see nothing.\n\n" in game.feedback
    assert here(game) == {"examine desk 1", "use desklamp 1"}
    assert "go to desk 1" not in game.commands


def test_games_that_share_rules_are_independent():
    rules = tiny_rules()
    one, other = Game(rules), Game(rules)
    typed(one, "go to countertop 1", "take apple 2 from countertop 1")
    twin = one.copy()
    typed(one, "go to sinkbasin 1", "move apple 2 to sinkbasin 1")
    assert (one.won, twin.won, other.won) == (True, False, False)
    assert typed(twin, "inventory") == ["You are carrying: a apple 2."]
    assert typed(other, "go to countertop 1")[0].endswith("you see a apple 2, and a mug 1.")
    assert one.feedback == "You move the apple 2 to the sinkbasin 1."


def walked(rules, seed, steps=300):
    """A random walk: its commands and all responses."""
    game, chance = Game(rules), random.Random(seed)
    said = []
    for _ in range(steps):
        command = chance.choice(list(game.commands))
        game.play(command)
        said.append((command, game.feedback, tuple(game.commands), game.won, game.state.key))
    return said


@pytest.mark.parametrize("most", [0, 3, 1024])
def test_responses_do_not_depend_on_the_cache(monkeypatch, most):
    alone = [walked(tiny_rules(), seed) for seed in range(4)]
    monkeypatch.setattr(engine, "MAX_MENUS", most)
    monkeypatch.setattr(answers, "MAX_ANSWERS", most)
    rules = tiny_rules()
    assert [walked(rules, seed) for seed in range(4)] == alone
    assert [walked(rules, seed) for seed in (3, 2, 1, 0)] == alone[::-1]
    assert len(rules.menus) <= most
    assert len(rules.answers.by_key) <= most


@pytest.mark.parametrize(
    "rule",
    [
        '"condition": "opened(r:receptacle)", "rhs": "yes"',
        '"condition": "inreceptacle(o:object, r:receptacle)", "rhs": "yes"',
        '"condition": "holds(a:agent, o:object)", "rhs": "yes"',
        '"condition": "isclean(o:object)", "rhs": "yes"',
        '"condition": "istoggled(o:object)", "rhs": "yes"',
        '"condition": "objectatlocation(o:object, l:location)", "rhs": "yes"',
        '"condition": "atlocation(a:agent, x:location) & receptacleatlocation(s:receptacle, x:location) & '
        'opened(s:receptacle)", "rhs": "yes"',
        '"condition": "receptacleatlocation(s:receptacle, lstart:location)", "rhs": "yes"',
        '"condition": "receptacleatlocation(s:receptacle, lstart:location) & opened(s:receptacle)", "rhs": "yes"',
        '"rhs": "[{s.name | receptacleatlocation(s:receptacle, x:location)}]"',  # except at the origin
    ],
)
def test_cached_responses_depend_on_all_facts_of_the_grammar(monkeypatch, rule):
    """Every response depends on a fact; cached responses equal those computed without the cache."""
    asks = '"mood": [{' + rule + '}, {"rhs": "no"}], "intro"'
    text = re.sub(r'feedback :: "', 'feedback :: "#mood# ', GRAMMAR.replace('"intro"', asks, 1))
    monkeypatch.setattr(answers, "MAX_ANSWERS", 0)
    alone = [walked(tiny_rules(grammar=text), seed) for seed in range(6)]
    monkeypatch.undo()
    rules = tiny_rules(grammar=text)
    assert [walked(rules, seed) for seed in range(6)] == alone
    assert len({said[1].split()[0] for walk in alone for said in walk}) > 1


def test_a_grammar_without_an_action_of_the_domain_is_refused():
    without = "\n".join(line for line in GRAMMAR.split("\n") if not line.startswith("action OpenObject"))
    with pytest.raises(GameError, match="there is no text for the domain's action openobject"):
        tiny_rules(grammar=without)


def test_the_three_texts_are_checked():
    with pytest.raises(GameError, match="PDDL domain"):
        read_rules("(nothing)", GRAMMAR, tiny_problem())
    with pytest.raises(GameError, match="PDDL problem"):
        read_rules(DOMAIN, GRAMMAR, "(nothing)")
