"""Our ALFWorld engine and TextWorld, side by side in one process: seconds of a reset and of a step, memory of a game.

    make setup EXTRA=alfworld
    PYTHONPATH=proto:environments/sdk:environments/alfworld .venv-alfworld/bin/python -m benchmarks.alfworld.engines

Both play the same games of our making, from the same texts, along the same random walks, game by game, each a whole
walk at a time. A reset is what an episode costs whose game was not played lately: with TextWorld the reset alone, with
ours reading the texts too. A step is the answer and the commands that work then. Prints JSON; `speed.py`
starts it and judges.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from arlarena.environments.alfworld.engine.game import Game, read_rules
from arlarena.environments.alfworld.houses.generator import HouseOptions
from arlarena.environments.alfworld.houses.made_games import draft_of, file_of

GAMES, STEPS = 12, 25
KEPT = 8  # games of each engine that are held while memory is measured; of ours so many times more
OURS_PER_THEIRS = 40


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def texts(index: int) -> dict[str, Any]:
    """Return the texts of a generated game's file."""
    game: dict[str, Any] = msgspec.to_builtins(file_of(draft_of("train", index, HouseOptions(), 50)))
    return game


def ours(game: dict[str, Any]) -> Game:
    """Start a game in our engine from its texts."""
    return Game(read_rules(game["pddl_domain"], game["grammar"], game["pddl_problem"]))


class Theirs:
    """TextWorld's environment with alfworld's names, as ALFWorld plays it."""

    def __init__(self, game: dict[str, Any]) -> None:
        from alfworld.agents.utils.misc import Demangler
        from textworld import EnvInfos
        from textworld.envs.pddl.pddl import PddlEnv

        self.env = PddlEnv(EnvInfos(won=True, admissible_commands=True))
        self.env.load(game)
        names = Demangler(game_infos=self.env._entity_infos)
        for info in self.env._entity_infos.values():
            info.name = names.demangle_alfred_name(info.id)


def timed(work: Any) -> tuple[float, Any]:
    """Call `work` and return the seconds it took, with its result."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def speed() -> dict[str, dict[str, list[float]]]:
    """Return the seconds of every reset and step of both engines, on the same walks."""
    seconds: dict[str, dict[str, list[float]]] = {name: {"reset": [], "step": []} for name in ("ours", "textworld")}
    for index in range(GAMES):
        game, walk = texts(index), random.Random(index)
        env = Theirs(game).env
        took, state = timed(env.reset)
        seconds["textworld"]["reset"].append(took)
        took, mine = timed(lambda game=game: ours(game))
        seconds["ours"]["reset"].append(took)
        told = []
        for _ in range(STEPS):
            command = walk.choice(state["admissible_commands"])
            took, (state, _, _) = timed(lambda env=env, command=command: env.step(command))
            seconds["textworld"]["step"].append(took)
            told.append((command, (state.feedback, state["admissible_commands"], state["won"])))
        for command, answer in told:
            took, shown = timed(lambda mine=mine, command=command: (mine.play(command), list(mine.commands), mine.won))
            seconds["ours"]["step"].append(took)
            if shown != answer:
                raise SystemExit(f"error: game {index} differs after {command!r}: {shown}")
    return seconds


def memory() -> dict[str, float]:
    """Return the bytes of memory of a running game in each engine.

    This is the growth of the process while it holds many different games, divided by their number.
    """
    found = {}
    for name, make, count in (
        ("ours", ours, KEPT * OURS_PER_THEIRS),
        ("textworld", lambda game: Theirs(game).env, KEPT),
    ):
        games = [texts(1000 + index) for index in range(count + 2)]
        held = [make(game) for game in games[:2]]  # what the first ones load is not theirs
        for one in held if name == "textworld" else ():
            one.reset()
        gc.collect()
        before = resident()
        for game in games[2:]:
            held.append(make(game))
            if name == "textworld":
                held[-1].reset()
            else:
                held[-1].commands  # noqa: B018
        gc.collect()
        found[name] = (resident() - before) / count
    return found


def main() -> None:
    """Measure, and print the result as JSON."""
    output, sys.stdout = sys.stdout, sys.stderr  # the planner's translator prints
    result: dict[str, Any] = {"memory_bytes": memory()}
    for engine, kinds in speed().items():
        for kind, values in kinds.items():
            result.setdefault(f"{kind}_s", {})[engine] = statistics.median(values)
            result.setdefault(f"{kind}s", {})[engine] = len(values)
    print(json.dumps(result), file=output)


if __name__ == "__main__":
    main()
