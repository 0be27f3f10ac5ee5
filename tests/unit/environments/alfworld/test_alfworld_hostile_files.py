"""Game files with endless texts, facts or goals: an error names the game, within bounded time and memory."""

import json
import os
import time

import pytest

from arlarena.environment.protocols import TaskError
from arlarena.environment.registry import load
from arlarena.environments.alfworld.engine.domain import GRAMMAR
from arlarena.environments.alfworld.files.export import export
from arlarena.environments.alfworld.options import read_options
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import ResetSpec

SOON_S = 6.0  # the limit of one text is 2 s


@pytest.fixture
def game(tmp_path):
    """A game file whose fields can be changed."""
    export(tmp_path, "train", 0, read_options("test", {}))
    (path,) = tmp_path.rglob("*.tw-pddl")
    return path


def play(path, actions=()):
    environment = load("test", "alfworld", {"games": str(path)})
    episode = environment.start(environment.task(ResetSpec()))
    seen = episode.observe().observation
    for action in actions:
        seen = episode.step(action(seen)).observation
    return seen


def changed(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rules(**new):
    """ALFWorld's grammar with other rules, including the rule `intro`."""
    block = "".join(f'"{name}": [{{"rhs": {json.dumps(text)}}}],\n' for name, text in new.items())
    grammar = GRAMMAR.replace('"intro"', '"old_intro"')
    return f'grammar :: """\n{{{block}"unused": [{{"rhs": ""}}]}}\n""";\n' + grammar


DOUBLING = {"intro": "#d0#", **{f"d{n}": f"#d{n + 1}##d{n + 1}#" for n in range(60)}, "d60": "x"}
EMPTY_DOUBLING = {**DOUBLING, "d60": ""}
CROSS = " & ".join(f"receptacleatlocation({a} : receptacle, {a}{a} : location)" for a in "abcdefgh")
NO_ANSWER = CROSS + " & inreceptacle(a : object, zz : receptacle) & opened(a : object)"
HOSTILE = {
    "a rule of itself": (rules(intro="#intro#"), "recursive"),
    "rules of one another": (rules(intro="#other#", other="a #intro#"), "recursive"),
    "a rule of itself that grows": (rules(intro="#intro##intro#"), "recursive"),
    "a text that doubles": (rules(**DOUBLING), "longer than|queries"),
    "nothing, doubled": (rules(**EMPTY_DOUBLING), "queries"),
    "all answers to a join": (rules(intro=f"[{{a.name|{CROSS}}}]"), "queries|longer"),
    "a join without an answer": (rules(intro=f"[{{a.name|{NO_ANSWER}}}]"), "queries"),
    "brackets": (rules(intro="[{" * 100_000), "characters"),
    "braces": (rules(intro="{" * 100_000), "characters"),
    "a long grammar": (GRAMMAR + " " * 300_000, "characters"),
    "a variable that is not there": (rules(intro="{nobody.name}"), "does not have"),
    "rules that are no rules": (
        'grammar :: """\n{"intro": "text", "task": [{"rhs": "x"}]}\n""";',
        "not understood|expected|cannot be parsed",
    ),
    "deep rules": ('grammar :: """\n{"task": [{"rhs": "x"}], "a": ' + "[" * 100_000 + '}\n""";', "grammar"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_endless_grammar_is_an_error_that_names_the_game(game, kind):
    grammar, message = HOSTILE[kind]
    changed(game, grammar=grammar)
    began = time.monotonic()
    with pytest.raises(TaskError, match=message) as caught:
        play(game)
    assert time.monotonic() - began < SOON_S
    assert str(game) in str(caught.value) or game.stem in str(caught.value)
    assert len(str(caught.value)) < 2000


def problem(game, goal):
    text = json.loads(game.read_text())["pddl_problem"]
    start = text.index("(:goal")
    return f"{text[:start]}(:goal {goal}))"


VARIABLES = " ".join(f"?v{n}" for n in range(9))
DISTINCT = " ".join(f"(not (= ?v{n} ?v{n}))" for n in range(8, 9))
NESTED = "".join(f"(not (exists (?v{n} - object) " for n in range(6)) + "(= ?v0 ?v1)" + "))" * 6
GOALS = {
    "nine variables": (f"(exists ({VARIABLES} - object) (and {DISTINCT}))", "tries"),
    "variables within variables": (NESTED, "tries"),
    "deep": ("(not " * 5000 + "(opened x)" + ")" * 5000, "nested parentheses"),
    "long": ("(and " + "(opened x) " * 100_000 + ")", "words"),
}


@pytest.mark.parametrize("kind", GOALS)
def test_a_goal_with_too_many_tries_is_an_error_that_names_the_game(game, kind):
    goal, message = GOALS[kind]
    changed(game, pddl_problem=problem(game, goal))
    began = time.monotonic()
    with pytest.raises(TaskError, match=message) as caught:
        play(game)
    assert time.monotonic() - began < SOON_S
    assert str(game) in str(caught.value) or game.stem in str(caught.value)


def test_a_game_is_a_plain_file_of_bounded_size(game):
    changed(game, more="x" * (8 << 20))
    with pytest.raises(ConfigError, match="regular file"):  # one file is read at the start
        play(game)
    with pytest.raises(TaskError, match="regular file"):
        play(game.parent)
    pipe = game.with_name("pipe.tw-pddl")
    game.unlink()
    os.mkfifo(pipe)
    with pytest.raises(TaskError, match="regular file"):
        play(game.parent)


def test_a_games_own_texts_are_far_from_the_limits(game):
    assert play(game, [lambda seen: seen.admissible_actions[0]] * 5).step == 5
