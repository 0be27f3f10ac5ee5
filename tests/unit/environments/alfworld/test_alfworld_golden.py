"""TextWorld's responses in a dozen generated games, some of them mutated: the native engine's are exactly equal.

After `make setup EXTRA=alfworld`, `benchmarks/alfworld/oracle.py --record tests/data/golden/alfworld` writes them anew.
That is needed when the maker of games changes (MAKER_VERSION), and never because our engine does.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from arlarena.environment.hashing import digest
from arlarena.environments.alfworld.engine.domain import DOMAIN, check_domain
from arlarena.environments.alfworld.engine.game import Game, rules_of
from arlarena.environments.alfworld.engine.pddl import read_problem
from arlarena.environments.alfworld.houses.generator import HouseOptions
from arlarena.environments.alfworld.houses.made_games import draft_of, file_of
from arlarena.environments.alfworld.task_kinds import TASK_TYPES

FOLDER = Path(__file__).resolve().parents[3] / "data" / "golden" / "alfworld"
PATHS = sorted(FOLDER.glob("*.json"))


def recorded(path):
    """A transcript and its game."""
    told = json.loads(path.read_text())
    options = told["options"]
    houses = HouseOptions(tuple(options["types"]), tuple(options["things"]), options["receptacles"])
    file = file_of(draft_of(told["split"], told["index"], houses, told["horizon"]))
    problem = read_problem(file.pddl_problem)
    added, removed = ({tuple(w.lower() for w in fact) for fact in told.get(name, ())} for name in ("added", "removed"))
    problem = replace(problem, facts=(problem.facts - removed) | added)
    assert told["problem_digest"] == digest(
        repr((sorted(problem.objects.items()), sorted(problem.facts), problem.goal))
    ), "games are made differently now: record the transcripts anew"
    return told, Game(rules_of(problem, file.grammar, check_domain(DOMAIN)))


def said(game):
    return {"observation": game.feedback, "won": game.won, "commands": "; ".join(game.commands)}


def test_there_is_a_plain_and_a_mutated_game_of_each_kind_of_task():
    assert [path.stem for path in PATHS] == sorted(
        f"{kind}-{way}" for kind in TASK_TYPES for way in ("mutated", "plain")
    )
    assert sum(path.stat().st_size for path in PATHS) < 500_000
    told = [json.loads(path.read_text()) for path in PATHS]
    assert all(one["engine"].startswith("textworld") and any(turn["won"] for turn in one["said"]) for one in told)
    assert "Nothing happens." in {turn["observation"] for one in told for turn in one["said"]}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_native_engine_equals_textworld(path):
    told, game = recorded(path)
    assert said(game) == told["said"][0]
    for turn in told["said"][1:]:
        game.play(turn["command"])
        assert {"command": turn["command"], **said(game)} == turn
