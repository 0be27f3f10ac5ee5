"""Compares our ALFWorld engine with TextWorld after every step: responses, admissible commands and wins must be equal.

    make verify PART=alfworld

The engines play the games of `cases.py`: generated games of all task types and splits, mutated games, games with the
domain and grammar of other versions of alfworld, and one real game if its file exists. In each game, the engines play
four walks (`walks.py`), one after another: the commands of the expert, errands (rare sequences of commands), random
commands, and the commands of a careless or malicious player. Every second game plays the walks in reverse order, so
some walks begin after the task is solved. At the first difference, the program prints all commands of the game and the
parameters that generate the game, and ends with exit status 1.

With `--record FOLDER`, the program plays two short games of each task type instead, and writes transcripts of
TextWorld's responses. `make test` compares our engine with these transcripts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from arlarena.environment.hashing import digest
from arlarena.environments.alfworld.content import LoadedGame, loaded
from arlarena.environments.alfworld.engine.game import Game, read_rules
from arlarena.environments.alfworld.engine.pddl import PddlProblem, read_problem
from arlarena.environments.alfworld.houses.generator import SPLITS
from arlarena.environments.alfworld.houses.made_games import file_of
from arlarena.environments.alfworld.stock_engine import EngineOutput, StockEngine, check_packages
from arlarena.environments.alfworld.task_kinds import TASK_TYPES
from benchmarks.alfworld.cases import HORIZON, SMALL, Case, cases, made, mutated
from benchmarks.alfworld.walks import WALKS
from benchmarks.support.paths import ROOT

REAL = ROOT.parent / "shared/data/alfworld/real_single_game.tw-pddl"
SHARES = {
    "planned": 1.0,
    "errands": 1.0,
    "wandering": 0.5,
    "adversarial": 0.5,
}  # maximum length of each walk, as a share of --steps
ENGINE = "textworld 1.7.0, alfworld 0.4.2"
# The walks of a transcript: kind of the game → walk → maximum number of steps.
RECORDED = {"made": {"planned": 25, "adversarial": 10}, "mutated": {"errands": 22, "adversarial": 8, "planned": 20}}


class Different(Exception):
    """The two engines gave different results."""


@dataclass(slots=True)
class Tally:
    """Counts of the compared games and steps."""

    games: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    mutations: Counter[str] = field(default_factory=Counter)
    walks: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    won_games: int = 0
    steps_after_the_win: int = 0


Answer = tuple[str, tuple[str, ...], bool]


class Pair:
    """Our engine and TextWorld, which play the same game with the same commands.

    Raises:
        Different: the engines show different starts of the game.
    """

    def __init__(self, stock: StockEngine, case: Case, tally: Tally) -> None:
        self.case, self.tally = case, tally
        self._stock = stock
        stock.load(case.file)
        self.made: LoadedGame = loaded(read_rules(case.file.pddl_domain, case.file.grammar, case.file.pddl_problem))
        self.game = Game(self.made.rules)
        self.typed: list[str] = []
        self.answers = [self._compare(stock.output())]

    def play(self, command: str) -> None:
        """Give a command to both engines. Compare the responses, the admissible commands and the wins.

        Raises:
            Different: the results differ.
        """
        tally, move = self.tally, self.game.commands.get(command.strip())
        tally.actions[move.action if move else "nothing happens"] += 1
        tally.refused += move is None
        tally.steps_after_the_win += self.game.won
        self.typed.append(command)
        self.game.play(command)
        self._stock.play(command)
        self.answers.append(self._compare(self._stock.output()))

    def play_again(self) -> None:
        """Play all commands again in our engine, which now takes the responses from its cache.

        Raises:
            Different: a result differs from the result without the cache.
        """
        self.game = Game(self.made.rules)
        for command, (text, commands, won) in zip(self.typed, self.answers[1:], strict=True):
            self.game = self.game.copy()
            self.game.play(command)
            self._compare(EngineOutput(text, commands, won, ""))

    def _compare(self, seen: EngineOutput) -> Answer:
        ours = (self.game.feedback, tuple(self.game.commands), self.game.won)
        theirs = (seen.text, seen.commands, seen.won)
        if ours != theirs:
            raise Different(_difference(self, ours, theirs))
        return ours


def _difference(pair: Pair, ours: Answer, theirs: Answer) -> str:
    lines = [f"DIFFERENT: {pair.case.kind} game {pair.case.name}", json.dumps(pair.case.recipe), *map(repr, pair.typed)]
    for field_name, our, their in zip(("response", "commands", "won"), ours, theirs, strict=True):
        if our != their:
            lines += [f"{field_name}, ours:      {our!r}", f"{field_name}, TextWorld: {their!r}"]
    lines.append(f"commands of only one engine: {sorted(set(ours[1]) ^ set(theirs[1]))}")
    return "\n".join(lines)


def play(stock: StockEngine, case: Case, steps: int, seed: int, tally: Tally) -> None:
    """Play all walks in one game with both engines, and count the steps in `tally`.

    Args:
        stock: TextWorld.
        case: the game.
        steps: maximum number of steps of a walk. `SHARES` reduces this number for some walks.
        seed: seed of the walks. An even number reverses their order.
        tally: the counts to increase.

    Raises:
        Different: the results of the engines differ.
    """
    pair = Pair(stock, case, tally)
    names = list(WALKS) if seed % 2 else list(reversed(WALKS))
    won = False
    for name in names:
        walk = WALKS[name](pair.game, pair.made, Random(f"{seed}/{name}"))
        for command in islice(walk, int(steps * SHARES[name])):
            pair.play(command)
            tally.walks[name] += 1
            won = won or pair.game.won
    pair.play_again()
    tally.games[case.kind] += 1
    tally.types[pair.made.type] += 1
    tally.splits[str(case.recipe.get("split", "a file"))] += 1
    tally.mutations.update(case.recipe.get("mutations", ()))
    tally.won_games += won


def compare(args: argparse.Namespace, stock_data: Path) -> dict[str, Any]:
    """Compare the engines on all games, until the first difference. Return the counts, and the key `passed`.

    `args`: the command line. `stock_data`: folder of the data in the package alfworld.
    """
    tally, begin = Tally(), time.perf_counter()
    real = args.real if args.real.exists() else None
    different, stock = "", StockEngine()
    for number, case in enumerate(cases(args.games, args.seed, real, stock_data)):
        try:
            play(stock, case, args.steps, args.seed * 1000 + number, tally)
        except Different as error:
            different = str(error)
            print(different, flush=True)
            break
        total = sum(tally.walks.values())
        print(f"{number + 1}: {case.kind} {case.name}: no difference; {total} steps so far", flush=True)
    steps = sum(tally.walks.values())
    return {
        "games": sum(tally.games.values()),
        "steps": steps,
        "differences": int(bool(different)),
        "games_by_kind": dict(tally.games),
        "games_by_type": dict(tally.types),
        "games_by_split": dict(tally.splits),
        "mutated_games_by_mutation": dict(sorted(tally.mutations.items())),
        "steps_by_walk": dict(tally.walks),
        "steps_by_action": dict(sorted(tally.actions.items())),
        "steps_after_the_win": tally.steps_after_the_win,
        "games_won_on_the_way": tally.won_games,
        "seed": args.seed,
        "seconds": round(time.perf_counter() - begin),
        "passed": not different and steps > 0,
    }


# --- transcripts ---


def recorded_cases(seed: int) -> Iterator[Case]:
    """Yield two generated games of each task type, for the transcripts. The second of the two games is mutated."""
    for number, kind in enumerate(TASK_TYPES):
        for second in (0, 1):
            split = SPLITS[(number + second) % len(SPLITS)]
            draft, recipe = made(split, kind, SMALL, seed * 1000 + 500 + 2 * number + second)
            if second:
                draft, recipe = mutated(draft, recipe, Random(f"{seed}/recorded/{number}"))
            yield Case(
                f"{kind}-{'mutated' if second else 'plain'}", "mutated" if second else "made", file_of(draft), recipe
            )


def record(folder: Path, seed: int) -> None:
    """Write the transcripts of TextWorld's responses into `folder`: one file for each game of `recorded_cases`."""
    folder.mkdir(parents=True, exist_ok=True)
    stock, tally = StockEngine(), Tally()
    for number, case in enumerate(recorded_cases(seed)):
        pair = Pair(stock, case, tally)
        outputs = [_output_record(stock.output())]
        for name, limit in RECORDED[case.kind].items():
            walk = WALKS[name](pair.game, pair.made, Random(f"{seed}/{number}/{name}"))
            for command in islice(walk, limit):
                pair.play(command)
                outputs.append({"command": command, **_output_record(stock.output())})
        transcript = {
            "engine": ENGINE,
            "horizon": HORIZON,
            **case.recipe,
            "problem_digest": problem_digest(read_problem(case.file.pddl_problem)),
            "said": outputs,
        }
        path = folder / f"{case.name}.json"
        path.write_text(json.dumps(transcript, indent=1) + "\n")
        print(f"wrote {path}, {path.stat().st_size} bytes", flush=True)


def problem_digest(problem: PddlProblem) -> str:
    """Return a hash of a PDDL problem. The hash does not depend on the order of the facts."""
    return digest(repr((sorted(problem.objects.items()), sorted(problem.facts), problem.goal)))


def _output_record(seen: EngineOutput) -> dict[str, Any]:
    return {"observation": seen.text, "won": seen.won, "commands": "; ".join(seen.commands)}


def main() -> int:
    """Compare the engines, or record transcripts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=108, help="number of generated games")
    parser.add_argument(
        "--steps",
        type=int,
        default=46,
        help="maximum number of steps of a walk; half of this number for the walks `wandering` and `adversarial`",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", type=Path, default=REAL, help="file of a real game; ignored if it does not exist")
    parser.add_argument(
        "--record",
        type=Path,
        help="only play two short games of each task type, and write transcripts into this folder",
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    check_packages()
    spec = find_spec("alfworld")
    assert spec is not None
    assert spec.origin is not None
    if args.record:
        record(args.record, args.seed)
        return 0
    result = compare(args, Path(spec.origin).parent / "data")
    result["machine"] = {"cores": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
