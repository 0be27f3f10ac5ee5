"""The program that the benchmarks of the sandbox execute, and a function that measures executions per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

PROGRAM = """
import numpy as np
import sympy as sp
x = sp.symbols("x")
print(sp.solve(x**2 - 5*x + 6, x), sp.factorint(123456), np.linalg.det(np.array([[2.0, 1.0], [1.0, 3.0]])).round(6))
"""
ANSWER = "[2, 3] {2: 6, 3: 1, 643: 1} 5.0\n"


def rate(run: Callable[[], str], seconds: float, in_flight: int) -> float:
    """Call `run` for `seconds`, with `in_flight` concurrent calls. Return the number of calls per second.

    `run` executes `PROGRAM`, and must return `ANSWER`.
    """
    ends = time.perf_counter() + seconds

    def work(_: int) -> int:
        count = 0
        while time.perf_counter() < ends:
            assert run() == ANSWER
            count += 1
        return count

    begun = time.perf_counter()
    with ThreadPoolExecutor(in_flight) as pool:
        done = sum(pool.map(work, range(in_flight)))
    return done / (time.perf_counter() - begun)
