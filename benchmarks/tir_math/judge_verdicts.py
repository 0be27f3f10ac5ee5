r"""Stock math-verify and TIR Math's judge of answers side by side, on pairs whose verdict is known.

    python -m benchmarks.tir_math.judge_verdicts
    python -m benchmarks.tir_math.judge_verdicts --golds simplerl_math_lv3to5.jsonl aime24.jsonl aime25.jsonl --every 1

Pairs are those of tests/data/golden/tir_math (verdicts.tsv, pairs.jsonl) and tests/cases/environments, and, with
--golds, those made of the answers of such files (JSON lines, field `answer`): each in other forms of itself, which are
right, and changed, which is wrong.

    stock     `verify(parse("$gold$"), parse("\\boxed{answer}"))` of math-verify, all defaults
    tidied    the same on the text that our own rules get (`latex.normalize`)
    ours      `judging.judge`

Printed is, for each set and each kind in it, the number of pairs, and of each judge how many wrong answers it paid
plus how many right ones it refused. Exit status 1: ours is wrong about a pair.
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
JUDGES = ("stock", "tidied", "ours")
FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")


@dataclass(frozen=True, slots=True)
class Pair:
    """A gold answer, an answer, and whether this answer is right. `group`: the set and the kind."""

    group: tuple[str, str]
    gold: str
    answer: str
    right: bool


@dataclass(slots=True)
class Tally:
    """Counts of one judge over the pairs of a group; `slowest` in seconds."""

    paid: int = 0
    refused: int = 0
    slowest: float = 0.0
    seconds: float = 0.0


@dataclass(slots=True)
class Group:
    """The counts of all judges on the pairs of one kind."""

    pairs: int = 0
    stock: Tally = field(default_factory=Tally)
    tidied: Tally = field(default_factory=Tally)
    ours: Tally = field(default_factory=Tally)


def stock(gold: str, answer: str) -> bool:
    """Return the verdict of math-verify, called as in its documentation."""
    try:
        return bool(verify(parse(f"${gold}$"), parse(f"\\boxed{{{answer}}}")))
    except Exception:  # as a caller would have to
        return False


def tidied(gold: str, answer: str) -> bool:
    """Return the verdict of math-verify on texts normalised by our rules."""
    try:
        return bool(verify(parse(f"${normalize(gold)}$"), parse(f"${normalize(answer)}$")))
    except Exception:  # a text that is no LaTeX among them
        return False


def written() -> Iterator[Pair]:
    """Yield the pairs that people wrote."""
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


def made(golds: list[str]) -> Iterator[Pair]:
    """Yield pairs made from gold answers: other forms of the same value, and changed values."""
    for gold in golds:
        for kind, answer, right in (*_same(gold), *_changed(gold)):
            if answer != gold or right:
                yield Pair(("golds", kind), gold, answer, right)


def _same(gold: str) -> Iterator[tuple[str, str, bool]]:
    yield "as it is", gold, True
    yield "in dollars, with a full stop", f"${gold}$.", True
    yield "large fractions", gold.replace("\\frac", "\\dfrac"), True
    yield "plain brackets", gold.replace("\\left", "").replace("\\right", ""), True
    if found := FRACTION.fullmatch(gold):
        sign, top, bottom = found[1], int(found[2]), int(found[3])
        yield "fraction as a decimal", f"{sign}{top / bottom!r}", True
        yield "fraction not in lowest terms", f"{sign}{3 * top}/{3 * bottom}", True


def _changed(gold: str) -> Iterator[tuple[str, str, bool]]:
    if re.fullmatch(r"0(,.*)?|\\begin\{pmatrix\}[0\s\\]*\\end\{pmatrix\}|.*approx.*", gold, re.DOTALL):
        return  # -0 is 0, as a vector too, and an approximation beside the exact value may be off
    if found := re.match(r"(.*)(\d)(\D*)", gold, re.DOTALL):
        yield "last digit changed", f"{found[1]}{(int(found[2]) + 1) % 10}{found[3]}", False
    yield "one more", f"{gold}+1", False
    yield "other sign", gold[1:] if gold.startswith("-") else f"-{gold}", False
    if found := re.fullmatch(r"(.*)([\[(])([^\[\]()]*,[^\[\]()]*)([\])].*)", gold):
        yield "other bracket", f"{found[1]}{'(' if found[2] == '[' else '['}{found[3]}{found[4]}", False
    found = re.fullmatch(r"\(\s*([^,()]+),\s*([^,()]+?)\s*\)", gold)
    if found and found[1].strip() != found[2]:
        yield "other order", f"({found[2]},{found[1]})", False


def note(tally: Tally, judged: Callable[[str, str], bool], pair: Pair) -> bool:
    """Judge a pair and count the result. Return whether the verdict is right."""
    start = time.process_time()
    said = judged(pair.gold, pair.answer)
    seconds = time.process_time() - start
    tally.seconds, tally.slowest = tally.seconds + seconds, max(tally.slowest, seconds)
    tally.paid += said and not pair.right
    tally.refused += pair.right and not said
    return said == pair.right


def show(groups: dict[tuple[str, str], Group]) -> None:
    """Print a Markdown table. Each cell has the wrong answers that were accepted and the right answers that were
    refused.
    """
    print("| set | kind | pairs | stock | tidied | ours |")
    print("|---|---|---:|---:|---:|---:|")
    for name in dict.fromkeys(name for name, _ in groups):
        kinds = {kind: group for (own, kind), group in groups.items() if own == name}
        for kind, group in kinds.items():
            print(f"| {name} | {kind} | {group.pairs} | {' | '.join(_cells([group]))} |")
        total = sum(group.pairs for group in kinds.values())
        print(f"| **{name}** | **all** | **{total}** | {' | '.join(_cells(list(kinds.values())))} |")
    for judged in JUDGES:
        tallies: list[Tally] = [getattr(group, judged) for group in groups.values()]
        mean = sum(tally.seconds for tally in tallies) / sum(group.pairs for group in groups.values())
        print(f"\n{judged}: {1000 * mean:.1f} ms of computing a pair, slowest {max(t.slowest for t in tallies):.2f} s")


def _cells(groups: list[Group]) -> Iterator[str]:
    for judged in JUDGES:
        tallies: list[Tally] = [getattr(group, judged) for group in groups]
        yield f"{sum(tally.paid for tally in tallies)} + {sum(tally.refused for tally in tallies)}"


def main() -> int:
    """Judge all pairs, print the table, and list the pairs that our judge gets wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golds", nargs="*", type=Path, default=[], help="files of problems with answers")
    parser.add_argument("--every", type=int, default=1, help="take each so-many-th different gold answer")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    lines = [line for path in args.golds for line in path.read_text(encoding="utf-8").splitlines()]
    golds = sorted({json.loads(line)["answer"] for line in lines} - {""})[:: args.every]
    groups: dict[tuple[str, str], Group] = defaultdict(Group)
    wrong = []
    for pair in (*written(), *made(golds)):
        group = groups[pair.group]
        group.pairs += 1
        note(group.stock, stock, pair)
        note(group.tidied, tidied, pair)
        if not note(group.ours, judge, pair):
            wrong.append(pair)
    show(groups)
    for pair in wrong:
        print(f"ours is wrong: gold {pair.gold!r}, answer {pair.answer!r}, right is {pair.right}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
