"""Checks our ALFWorld environment with TextWorld as its engine, in the Python environment that has TextWorld.

    .venv-alfworld/bin/python tests/support/environments/alfworld_driver.py FOLDER

environments/alfworld, environments/sdk and proto must be on PYTHONPATH.

Prints a JSON object: check → "ok" or a stack trace.
"""

import json
import os
import random
import sys
import traceback
from functools import partial
from pathlib import Path

from arlarena.environment.protocols import ExpertUnavailable, TaskError
from arlarena.environment.registry import load
from arlarena.environments.alfworld.files.export import export
from arlarena.environments.alfworld.options import read_options
from arlarena.environments.alfworld.stock_engine import EnginePool
from arlarena.proto.env_api import ResetSpec

# The environment is loaded by its module name, because its package is not installed.
ALFWORLD = "arlarena.environments.alfworld.environment"
SMALL = {"things": [4, 8], "receptacles": 6}
FOLDER = Path(sys.argv[1])


def start(made, index=0, split="train"):
    return made.start(made.task(ResetSpec(split=split, index=index)))


def environments(**options):
    return load("test", ALFWORLD, {**SMALL, **options}), load(
        "test", ALFWORLD, {**SMALL, **options, "backend": "textworld"}
    )


def same(one, other):
    """Assert that two results are equal except for the state key."""
    assert (one.observation, one.reward, one.done) == (other.observation, other.reward, other.done), (one, other)
    for name in ("score", "success", "action", "content_key", "kind", "task_id", "observation_key"):
        assert getattr(one.metadata, name) == getattr(other.metadata, name), name


def check_plays_like_ours():
    """Play the expert's replies, random replies and invalid replies in both engines.

    The results must be equal. States must have equal keys in one engine if and only if they have equal keys in the
    other engine.
    """
    native, stock = environments()
    for index in range(3):
        one, other, chance = start(native, index), start(stock, index), random.Random(index)
        same(one.observe(), other.observe())
        assert one.expert() == other.expert()
        keys = {one.observe().metadata.state_key: other.observe().metadata.state_key}
        replies = [chance.choice(one.observe().observation.admissible_actions), "dance", "", "<action>help</action>"]
        for _ in range(12):
            result, theirs = one.step(replies[0]), other.step(replies[0])
            same(result, theirs)
            key = keys.setdefault(result.metadata.state_key, theirs.metadata.state_key)
            assert key == theirs.metadata.state_key, "equal states must have equal keys"
            replies = [*replies[1:], chance.choice(result.observation.admissible_actions)]
        assert len(set(keys.values())) == len(keys), "different states must have different keys"
        for reply in one.expert():
            same(one.step(reply), other.step(reply))
        assert other.observe().metadata.success


def check_forks_are_independent():
    episode = start(environments()[1])
    replies = episode.expert()
    for reply in replies[:2]:
        episode.step(reply)
    twin, before = episode.fork(), episode.observe()
    assert twin.observe() == before
    ends = [twin.step(reply) for reply in replies[2:]]
    assert episode.observe() == before, "steps of the fork must not change the episode"
    assert [episode.step(reply) for reply in replies[2:]] == ends, "another engine must give the same results"
    assert ends[-1].reward == 10.0


def check_info():
    native, stock = environments()
    assert (native.blocking, stock.blocking) == (False, True)
    assert stock.info.version == f"{native.info.version}-textworld"
    assert stock.info.options["backend"] == "textworld"


def changed_game(**changes):
    """Write a generated game with changed texts. Return the environments of both engines for this game."""
    path = export(FOLDER / str(len(list(FOLDER.iterdir()))), "train", 0, read_options("test", SMALL)) / "game.tw-pddl"
    game = json.loads(path.read_text())
    path.write_text(json.dumps({**game, **{name: change(game[name]) for name, change in changes.items()}}))
    return environments(games=str(path))


def refusal(call, error):
    """Assert that a call raises `error`. Return the message."""
    try:
        call()
    except error as refused:
        return str(refused)
    raise AssertionError(f"no {error.__name__}")


def check_plays_rules_that_ours_does_not():
    def unlocked(domain):
        assert "(openable ?r) (not (opened ?r))" in domain
        return domain.replace("(openable ?r) (not (opened ?r))", "(not (opened ?r))")

    native, stock = changed_game(pddl_domain=unlocked)
    assert "action openobject differs" in refusal(lambda: start(native), TaskError)
    episode = start(stock)
    assert episode.step("look").observation.action_valid
    assert "Your task is to" in episode.observe().observation.prompt.split("\n")[1]
    assert "none of ALFWorld's six kinds" in refusal(episode.expert, ExpertUnavailable)


def check_a_game_that_textworld_does_not_take_is_an_error_of_the_task():
    for name, broken in (
        ("pddl_problem", lambda text: text[:-40]),
        ("pddl_problem", lambda text: text.replace("(:init", "(:start")),
        ("pddl_problem", lambda text: text.replace(" - receptacle", " - bucket")),
        (
            "pddl_problem",
            lambda text: text.replace("(:goal (and", "(:goal (and (unheard ?o)"),
        ),  # raises SystemExit
        ("pddl_domain", lambda text: text.replace("(:types", "(:kinds")),
        ("grammar", lambda text: text[:-100]),
    ):
        _, stock = changed_game(**{name: broken})
        assert "TextWorld does not take the game" in refusal(partial(start, stock), TaskError)


def check_few_engines_play_many_games():
    stock = environments()[1]
    stock._pool = EnginePool(1)
    episodes = [start(stock, index) for index in range(3)]
    plans = [episode.expert() for episode in episodes]
    for turn in range(2):
        for episode, plan in zip(episodes, plans, strict=True):
            assert episode.step(plan[turn]).observation.action_valid
    assert len(stock._pool._kept) <= 3
    assert [episode.expert() for episode in episodes] == [plan[2:] for plan in plans]


def check_the_process_is_left_as_it_was():
    assert "ALFWORLD_DATA" not in os.environ, "the import of alfworld sets this variable"
    assert sys.argv[1:] == [str(FOLDER)], "Fast Downward's translator overwrites the arguments"


def main():
    found = {}
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                check()
                found[name.removeprefix("check_")] = "ok"
            except Exception:
                found[name.removeprefix("check_")] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
