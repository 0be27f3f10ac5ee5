"""Compares our ALFWorld engine with TextWorld in one process: time of a reset, time of a step, and memory of a game.

    make setup EXTRA=alfworld
    PYTHONPATH=proto:environments/sdk:environments/alfworld .venv-alfworld/bin/python -m benchmarks.alfworld.engines

The engines play the same generated games from the same texts. In each game, TextWorld plays random commands. Then our
engine plays the same commands. No cache contains a game before its reset. For our engine, the time of a reset includes
reading the texts. For TextWorld, the time of a reset does not include loading the game. A step computes the response
and the admissible commands. The program prints the result as JSON. `speed.py` starts this program and checks the
result.
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
TEXTWORLD_GAMES = 8  # number of TextWorld games in the measurement of memory
OUR_GAMES = 40 * TEXTWORLD_GAMES  # number of our games in the measurement of memory; each takes less memory


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def texts(index: int) -> dict[str, Any]:
    """Return the texts of the generated game with this index: field of the game file → text."""
    game: dict[str, Any] = msgspec.to_builtins(file_of(draft_of("train", index, HouseOptions(), 50)))
    return game


def ours(game: dict[str, Any]) -> Game:
    """Start a game in our engine from its texts."""
    return Game(read_rules(game["pddl_domain"], game["grammar"], game["pddl_problem"]))


class TextWorldGame:
    """A game in TextWorld. Its things have the same names as in the package alfworld, such as "mug 1"."""

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
    """Call `work`. Return (duration in seconds, result of the call)."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def speed() -> dict[str, dict[str, list[float]]]:
    """Return engine → "reset" or "step" → durations in seconds. Both engines play the same commands.

    Raises:
        SystemExit: a result of our engine differs from that of TextWorld.
    """
    seconds: dict[str, dict[str, list[float]]] = {name: {"reset": [], "step": []} for name in ("ours", "textworld")}
    for index in range(GAMES):
        game, walk = texts(index), random.Random(index)
        env = TextWorldGame(game).env
        seconds_taken, state = timed(env.reset)
        seconds["textworld"]["reset"].append(seconds_taken)
        seconds_taken, our_game = timed(lambda game=game: ours(game))
        seconds["ours"]["reset"].append(seconds_taken)
        played = []
        for _ in range(STEPS):
            command = walk.choice(state["admissible_commands"])
            seconds_taken, (state, _, _) = timed(lambda env=env, command=command: env.step(command))
            seconds["textworld"]["step"].append(seconds_taken)
            played.append((command, (state.feedback, state["admissible_commands"], state["won"])))
        for command, answer in played:
            seconds_taken, shown = timed(
                lambda our_game=our_game, command=command: (
                    our_game.play(command),
                    list(our_game.commands),
                    our_game.won,
                )
            )
            seconds["ours"]["step"].append(seconds_taken)
            if shown != answer:
                raise SystemExit(f"error: game {index} differs after {command!r}: {shown}")
    return seconds


def memory() -> dict[str, float]:
    """Return the memory of a running game in bytes: engine → bytes.

    The process creates many different games. The memory of a game is the growth of the process's resident memory,
    divided by the number of games.
    """
    results = {}
    for name, make, count in (
        ("ours", ours, OUR_GAMES),
        ("textworld", lambda game: TextWorldGame(game).env, TEXTWORLD_GAMES),
    ):
        games = [texts(1000 + index) for index in range(count + 2)]
        held: list[Any] = [make(game) for game in games[:2]]  # not counted: the first games load shared data
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
        results[name] = (resident() - before) / count
    return results


def main() -> None:
    """Measure both engines, and print the result as JSON."""
    output, sys.stdout = sys.stdout, sys.stderr  # the translator of Fast Downward prints to stdout
    result: dict[str, Any] = {"memory_bytes": memory()}
    for engine, kinds in speed().items():
        for kind, values in kinds.items():
            result.setdefault(f"{kind}_s", {})[engine] = statistics.median(values)
            result.setdefault(f"{kind}s", {})[engine] = len(values)
    print(json.dumps(result), file=output)


if __name__ == "__main__":
    main()
