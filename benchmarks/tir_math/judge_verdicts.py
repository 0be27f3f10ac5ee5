r"""Compares TIR Math's judge of answers with math-verify, on pairs of answers with a known correct verdict.

    python -m benchmarks.tir_math.judge_verdicts
    python -m benchmarks.tir_math.judge_verdicts --golds simplerl_math_lv3to5.jsonl aime24.jsonl aime25.jsonl --every 1

A pair consists of a gold answer (the correct answer of a problem) and an answer to judge. The pairs come from
tests/data/golden/tir_math (verdicts.tsv, pairs.jsonl) and tests/cases/environments. With --golds, the benchmark makes
more pairs from the gold answers in the given files (JSON lines, field `answer`). In these pairs, the right answers are
other forms of the gold answer, and the wrong answers have another value.

The judges:

    stock       math-verify with all defaults: `verify(parse("$gold$"), parse("\\boxed{answer}"))`
    normalised  math-verify after `latex.normalize` has normalised both texts
    ours        `equivalence.judge`

The benchmark prints a table with one row for each kind of pair in each set. The column of a judge shows two numbers,
"A + R". A is the number of wrong answers that the judge accepted. R is the number of right answers that the judge
refused. Exit status: 1 if our judge is wrong about a pair, else 0.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from math_verify import parse, verify

from arlarena.environments.tir_math.judge.equivalence import judge
from arlarena.environments.tir_math.judge.latex import normalize
from benchmarks.support.paths import ROOT

GOLDEN = ROOT / "tests" / "data" / "golden" / "tir_math"
JUDGES = ("stock", "normalised", "ours")
FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")


@dataclass(frozen=True, slots=True)
class Pair:
    """A gold answer, an answer to judge, and whether this answer is right. `group`: (set, kind) of the pair."""

    group: tuple[str, str]
    gold: str
    answer: str
    right: bool


@dataclass(slots=True)
class Tally:
    """The results of one judge on all pairs of one kind.

    Attributes:
        accepted: number of wrong answers that were accepted.
        refused: number of right answers that were refused.
        slowest: maximum CPU time of a pair in seconds.
        seconds: CPU time of all pairs.
    """

    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0
    seconds: float = 0.0


@dataclass(slots=True)
class Group:
    """The number of pairs of one kind, and the results of all judges on them."""

    pairs: int = 0
    stock: Tally = field(default_factory=Tally)
    normalised: Tally = field(default_factory=Tally)
    ours: Tally = field(default_factory=Tally)


def stock(gold: str, answer: str) -> bool:
    """Return whether math-verify accepts the answer. The call is the example in the documentation of math-verify."""
    try:
        return bool(verify(parse(f"${gold}$"), parse(f"\\boxed{{{answer}}}")))
    except Exception:  # any error of math-verify counts as a refusal
        return False


def normalised(gold: str, answer: str) -> bool:
    """Return whether math-verify accepts the answer, after our rules have normalised both texts."""
    try:
        return bool(verify(parse(f"${normalize(gold)}$"), parse(f"${normalize(answer)}$")))
    except Exception:  # also if `normalize` refuses a text
        return False


def stored_pairs() -> Iterator[Pair]:
    """Yield the pairs in the test files of this repository."""
    kind = ""
    for line in (GOLDEN / "verdicts.tsv").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            kind = line[2:]
        elif line:
            sign, gold, answer = line.split("\t")
            yield Pair(("verdicts.tsv", kind), gold, answer, sign == "=")
    for line in (GOLDEN / "pairs.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield Pair(("pairs.jsonl", row["kind"]), row["gold"], row["answer"], row["right"])
    for path in sorted((ROOT / "tests" / "cases" / "environments").glob("math_*.json")):
        for gold, answer, right in json.loads(path.read_text(encoding="utf-8")):
            yield Pair(("cases", path.stem), gold, answer, right)


def made_pairs(golds: list[str]) -> Iterator[Pair]:
    """Make pairs from gold answers. Yield right answers in another form, and wrong answers with another value."""
    for gold in golds:
        for kind, answer, right in (*_equivalent_answers(gold), *_altered_answers(gold)):
            if answer != gold or right:
                yield Pair(("golds", kind), gold, answer, right)


def _equivalent_answers(gold: str) -> Iterator[tuple[str, str, bool]]:
    yield "as it is", gold, True
    yield "in dollars, with a full stop", f"${gold}$.", True
    yield "large fractions", gold.replace("\\frac", "\\dfrac"), True
    yield "plain brackets", gold.replace("\\left", "").replace("\\right", ""), True
    if found := FRACTION.fullmatch(gold):
        sign, top, bottom = found[1], int(found[2]), int(found[3])
        yield "fraction as a decimal", f"{sign}{top / bottom!r}", True
        yield "fraction not in lowest terms", f"{sign}{3 * top}/{3 * bottom}", True


def _altered_answers(gold: str) -> Iterator[tuple[str, str, bool]]:
    if re.fullmatch(r"0(,.*)?|\\begin\{pmatrix\}[0\s\\]*\\end\{pmatrix\}|.*approx.*", gold, re.DOTALL):
        return  # an altered zero can still be right, and also an altered value with an approximation
    if found := re.match(r"(.*)(\d)(\D*)", gold, re.DOTALL):
        yield "last digit changed", f"{found[1]}{(int(found[2]) + 1) % 10}{found[3]}", False
    yield "one more", f"{gold}+1", False
    yield "other sign", gold[1:] if gold.startswith("-") else f"-{gold}", False
    if found := re.fullmatch(r"(.*)([\[(])([^\[\]()]*,[^\[\]()]*)([\])].*)", gold):
        yield "other bracket", f"{found[1]}{'(' if found[2] == '[' else '['}{found[3]}{found[4]}", False
    found = re.fullmatch(r"\(\s*([^,()]+),\s*([^,()]+?)\s*\)", gold)
    if found and found[1].strip() != found[2]:
        yield "other order", f"({found[2]},{found[1]})", False


def count(tally: Tally, judge_function: Callable[[str, str], bool], pair: Pair) -> bool:
    """Let a judge judge a pair, and add the result to `tally`. Return whether the verdict is correct."""
    start = time.process_time()
    verdict = judge_function(pair.gold, pair.answer)
    seconds = time.process_time() - start
    tally.seconds, tally.slowest = tally.seconds + seconds, max(tally.slowest, seconds)
    tally.accepted += verdict and not pair.right
    tally.refused += pair.right and not verdict
    return verdict == pair.right


def show(groups: dict[tuple[str, str], Group]) -> None:
    """Print the results as a Markdown table, and then the CPU time of each judge. `groups`: (set, kind) → results."""
    print("| set | kind | pairs | stock | normalised | ours |")
    print("|---|---|---:|---:|---:|---:|")
    for name in dict.fromkeys(name for name, _ in groups):
        kinds = {kind: group for (own, kind), group in groups.items() if own == name}
        for kind, group in kinds.items():
            print(f"| {name} | {kind} | {group.pairs} | {' | '.join(_cells([group]))} |")
        total = sum(group.pairs for group in kinds.values())
        print(f"| **{name}** | **all** | **{total}** | {' | '.join(_cells(list(kinds.values())))} |")
    for name in JUDGES:
        tallies: list[Tally] = [getattr(group, name) for group in groups.values()]
        mean = sum(tally.seconds for tally in tallies) / sum(group.pairs for group in groups.values())
        print(
            f"\n{name}: {1000 * mean:.1f} ms of CPU time per pair, slowest pair {max(t.slowest for t in tallies):.2f} s"
        )


def _cells(groups: list[Group]) -> Iterator[str]:
    for name in JUDGES:
        tallies: list[Tally] = [getattr(group, name) for group in groups]
        yield f"{sum(tally.accepted for tally in tallies)} + {sum(tally.refused for tally in tallies)}"


def main() -> int:
    """Judge all pairs. Print the table, and the pairs that our judge got wrong. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--golds", nargs="*", type=Path, default=[], help="JSON Lines files with gold answers (field `answer`)"
    )
    parser.add_argument("--every", type=int, default=1, help="use every n-th of the different gold answers")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    lines = [line for path in args.golds for line in path.read_text(encoding="utf-8").splitlines()]
    golds = sorted({json.loads(line)["answer"] for line in lines} - {""})[:: args.every]
    groups: dict[tuple[str, str], Group] = defaultdict(Group)
    wrong = []
    for pair in (*stored_pairs(), *made_pairs(golds)):
        group = groups[pair.group]
        group.pairs += 1
        count(group.stock, stock, pair)
        count(group.normalised, normalised, pair)
        if not count(group.ours, judge, pair):
            wrong.append(pair)
    show(groups)
    for pair in wrong:
        print(f"our judge is wrong: gold {pair.gold!r}, answer {pair.answer!r}, correct verdict: {pair.right}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
