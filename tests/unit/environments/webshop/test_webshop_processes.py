"""The same goal, seed and actions give the same bytes in two processes with different hash seeds."""

import json
import subprocess
import sys

import pytest
from support.environments.webshop.odd_data import write_odd

# Builds or opens a catalogue, plays random actions, and prints what was seen.
PLAY = """
import json, random, sys
from support.environments.webshop_catalogue_support import FakeNouns
from arlarena.environment.hashing import digest
from arlarena.environments.webshop.catalogue import open as catalogue
from arlarena.environments.webshop.environment import load
from arlarena.proto.env_api import ResetSpec
import msgspec

catalogue.NounFinder = FakeNouns
environment = load("test", json.loads(sys.argv[1]))
shop, seen, goals = environment.shop.catalogue, [], {}
for split in environment.info.splits:
    members = [shop.goal(split.name, index) for index in range(min(split.size, 500))]
    contents = [(shop.product(goal.product).asin, sorted(map(str, goal.options))) for goal in members]
    goals[split.name] = [digest(repr(content)) for content in contents]
    seen.append(digest(repr(members)))
    for index in range(min(split.size, 3)):
        task = environment.task(ResetSpec(split=split.name, index=index, seed=7))
        episode, game, draw = environment.start(task), environment.game(task), random.Random(index)
        while not episode.done:
            clicks = [click for click in game.page.clicks if click != "click[buy now]" or draw.random() < 0.1]
            action = draw.choice([*clicks, "search[red shoe]"])
            game.play(action)
            seen.append(msgspec.json.encode(episode.step(action)).decode())
print(json.dumps({"version": environment.version, "seen": seen, "goals": goals}))
"""
GENERATED = {"products": 120, "evaluation_goals": 8}


@pytest.mark.parametrize("source", ["generated", "human", "synthetic"])
def test_two_processes_give_the_same_bytes_whatever_their_hash_seeds(tmp_path, source):
    data = write_odd(tmp_path / "data")
    options = GENERATED if source == "generated" else {"data": str(data), "goals": source}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PLAY, json.dumps(options | {"index": str(tmp_path / f"index{seed}")})],
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": ":".join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    first, second = (json.loads(process.communicate()[0]) for process in processes)
    assert first == second
    assert len(first["seen"]) > 50
    goals = {split: set(keys) for split, keys in first["goals"].items()}
    assert all(goals.values())
    assert not goals["train"] & (goals["validation"] | goals["test"])
