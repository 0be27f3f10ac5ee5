"""Checks generated games of ALFWorld, and a folder with as many games as ALFWorld's training set. Needs no TextWorld.

    python -m benchmarks.alfworld.games --out benchmarks/results/alfworld_games.json

The result has two parts:

* `made`: two processes with different hash seeds generate games of all splits. Both processes must produce the same
  bytes. The expert (a program that solves games) must solve each game in our engine, within the maximum number of
  steps. All six task types must occur. No two splits may contain games with the same content.
* `folder`: the environment loads a folder of game files. The benchmark measures the time until the environment is
  ready, and the growth of its memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import psutil

from arlarena.environments.alfworld.engine.game import Game
from arlarena.environments.alfworld.environment import load
from arlarena.environments.alfworld.expert import Expert
from arlarena.environments.alfworld.files.export import export
from arlarena.environments.alfworld.houses.generator import SPLITS
from arlarena.environments.alfworld.houses.made_games import GeneratedGames
from arlarena.environments.alfworld.options import AlfworldOptions
from arlarena.environments.alfworld.task_kinds import TASK_TYPES
from arlarena.proto.env_api import ResetSpec
from benchmarks.support.results import finish

SHARES = {"train": 0.5, "valid_seen": 0.25, "valid_unseen": 0.25}
MAX_SECONDS = 5.0
DISTINCT = 50  # number of different games in the folder; the other files are copies of these games


def play_games(count: int) -> list[dict[str, Any]]:
    """Generate `count` games, and let the expert play them. Return one record per game.

    `SHARES` contains the share of each split. A record contains hashes of the game, its task type, the number of steps,
    and whether the expert solved the game.
    """
    options, records = AlfworldOptions.model_validate({}), []
    games = GeneratedGames(options.houses(), options.max_steps, options.panel_size)
    for split in SPLITS:
        for index in range(round(count * SHARES[split])):
            made = games.game(split, index)
            assert made.goal is not None
            text = msgspec.json.encode(games.file(split, index))
            game = Game(made.rules)
            commands = [command for _, command in Expert(made.rules.house, made.goal).moves(game)]
            for command in commands:
                game.play(command)
            records.append(
                {
                    "split": split,
                    "content": made.content_key,
                    "file": hashlib.sha256(text).hexdigest(),
                    "kind": made.type,
                    "steps": len(commands),
                    "solved": game.won and len(commands) <= options.max_steps,
                }
            )
    return records


def check_generated_games(count: int) -> dict[str, Any]:
    """Generate and play `count` games in each of two processes with different hash seeds. Return a summary."""
    runs = []
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "benchmarks.alfworld.games", "--play", str(count)]
        done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, stdout=subprocess.PIPE)
        runs.append(json.loads(done.stdout))
    games, contents = runs[0], {split: {one["content"] for one in runs[0] if one["split"] == split} for split in SPLITS}
    return {
        "games": len(games),
        "solved": sum(one["solved"] for one in games),
        "kinds": dict(Counter(one["kind"] for one in games)),
        "mean_steps": round(sum(one["steps"] for one in games) / len(games), 1),
        "most_steps": max(one["steps"] for one in games),
        "same_in_two_processes": runs[0] == runs[1],
        "contents_of_two_splits": len(contents["train"] & contents["valid_seen"])
        + len(contents["valid_unseen"] & (contents["train"] | contents["valid_seen"])),
    }


def measure_folder(count: int) -> dict[str, Any]:
    """Load a folder of `count` games.

    Returns the number of games, the size of the folder in MB (10^6 bytes), the duration in seconds, and the growth of
    the process's memory in MB.
    """
    with tempfile.TemporaryDirectory(prefix="arlarena-bench-") as games_folder:
        root, options = Path(games_folder), AlfworldOptions.model_validate({})
        origins = [export(root, "train", index, options) for index in range(DISTINCT)]
        for number in range(count - DISTINCT):
            origin = origins[number % DISTINCT]
            copy = origin.parent / f"trial_{DISTINCT + number}"
            copy.mkdir()
            for name in ("traj_data.json", "game.tw-pddl"):
                shutil.copyfile(origin / name, copy / name)
        process, size = psutil.Process(), sum(path.stat().st_size for path in root.rglob("*.tw-pddl"))
        before, began = process.memory_info().rss, time.perf_counter()
        environment = load("[environment.options]", {"games": games_folder})
        seconds, grown = time.perf_counter() - began, process.memory_info().rss - before
        last = environment.start(environment.task(ResetSpec(split="train", index=count - 1))).observe()
        assert "Your task is to" in last.observation.prompt
        sizes = {split.name: split.size for split in environment.splits}
    return {
        "games": sizes["train"],
        "megabytes": round(size / 1e6),
        "seconds": round(seconds, 2),
        "megabytes_in_memory": round(grown / 1e6),
    }


def main() -> int:
    """Check the games and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=1000, help="number of generated games")
    parser.add_argument(
        "--files", type=int, default=3553, help="number of games in the folder; ALFWorld's train has 3,553"
    )
    parser.add_argument("--play", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.play:
        print(json.dumps(play_games(args.play)))
        return 0
    made, files = check_generated_games(args.games), measure_folder(args.files)
    claims = {
        "all are solved by the expert": made["solved"] == made["games"] == args.games,
        "all six kinds": set(made["kinds"]) == set(TASK_TYPES),
        "the same in two processes": made["same_in_two_processes"],
        "no content in two splits": made["contents_of_two_splits"] == 0,
        f"the folder is ready within {MAX_SECONDS:.0f} s": files["seconds"] < MAX_SECONDS,
        "the folder is not in memory": files["games"] == args.files
        and 10 * files["megabytes_in_memory"] < files["megabytes"],
    }
    return finish({"made": made, "folder": files, "claims": claims, "passed": all(claims.values())}, args.out)


if __name__ == "__main__":
    sys.exit(main())
