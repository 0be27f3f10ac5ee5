"""The code that the judge's zygote runs: `load` in the zygote, and `run` in each fork."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from arlarena.environments.tir_math.judge.judge_process import RIGHT
from arlarena.environments.tir_math.judge.scoring import verdict
from arlarena.sandbox import libraries

PACKAGES = ("antlr4", "latex2sympy2_extended", "math_verify")
# Pairs of gold answer and answer that the zygote judges before the first fork. Judging them loads grammars and lazy
# imports, and fills caches.
WARM_UP = (
    (r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2"),
    (r"x^2+2x+1", "(x+1)^2"),
    (r"\left(-\infty, 3\right]", r"x \le 3"),
    (r"\{1, 2\}", "2, 1"),
    (r"\frac{1}{3}", "0.333"),
    (r"\sin(x)+\log 2", r"\pi"),
    ("2\N{SQUARE ROOT}3", r"\sqrt{12}"),
    (r"1+i\sqrt{5}", r"\sqrt{5}i+1"),
    (r"e^{x}+\ln 3", r"\ln 3+e^x"),
    (r"\binom{5}{2}", r"\frac{5!}{12}"),
    (r"|x-3|+\lfloor 2.5 \rfloor", r"2+|3-x|"),
    ("y=2x+1", "2y-4x=2"),
    ("f(4-x)", "f(4-x)+0"),
)


def load() -> tuple[Callable[[bytes], int], list[Path]]:
    """Judge the pairs in WARM_UP. Then return `run` and the files that forks may read (see
    `arlarena.sandbox.zygote`).
    """
    sys.dont_write_bytecode = True
    for gold, answer in WARM_UP:
        verdict("math", gold, answer)
    return run, list(_readable())


def run(payload: bytes) -> int:
    """Judge the payload, a JSON list of form, gold answer and answer. Print the verdict. Return the exit code."""
    form, gold, answer = json.loads(payload)
    os.write(1, RIGHT.encode() if verdict(form, gold, answer) else b"wrong")
    return 0


def _readable() -> Iterator[Path]:
    yield from libraries.readable()
    for name in PACKAGES:
        yield Path(import_module(name).__path__[0])
