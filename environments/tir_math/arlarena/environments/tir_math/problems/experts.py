"""The expert writes a short program that computes and prints the answer of a problem. Each function gets the metadata
that the generator returns for a problem.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Meta = Mapping[str, Any]


def count_primes(meta: Meta) -> str:
    """Write a program that counts primes with a sieve."""
    return (
        f"start, end = {meta['start']}, {meta['end']}\n"
        "prime = [False, False] + [True] * (end - 1)\n"
        "for number in range(2, int(end**0.5) + 1):\n"
        "    if prime[number]:\n"
        "        prime[number * number :: number] = [False] * len(prime[number * number :: number])\n"
        "print(sum(prime[start : end + 1]))\n"
    )


def prime_factorization(meta: Meta) -> str:
    """Write a program that factorises with sympy."""
    return (
        "from sympy import factorint\n\n"
        f"factors = factorint({meta['number']})\n"
        'print(r" \\times ".join(str(prime) for prime, power in factors.items() for _ in range(power)))\n'
    )


def products(meta: Meta) -> str:
    """Write a program that prints the product."""
    return f"print({meta['expression']})\n"


def base_conversion(meta: Meta) -> str:
    """Write a program that finds the digits by division."""
    return (
        f'number, digits = int("{meta["source_repr"]}", {meta["source_base"]}), ""\n'
        "while number:\n"
        f"    number, digit = divmod(number, {meta['target_base']})\n"
        '    digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits\n'
        'print(digits or "0")\n'
    )


def polynomial_equations(meta: Meta) -> str:
    """Write a program that prints the distinct real roots."""
    return (
        "from sympy import Symbol, real_roots\n\n"
        f'{meta["variable"]} = Symbol("{meta["variable"]}")\n'
        f"roots = sorted(set(real_roots({meta['polynomial_expr']})))\n"
        'print(", ".join(str(round(float(root), 4)) for root in roots))\n'
    )


_GEOMETRY = {
    "orthocenter": (
        "heights = [C - B, A - C]\n"
        "x, y = np.linalg.solve(heights, [heights[0] @ A, heights[1] @ B])\n"
        'print(f"({x:.3f}, {y:.3f})")\n'
    ),
    "incircle_radius": (
        "sides = [np.hypot(*(B - C)), np.hypot(*(C - A)), np.hypot(*(A - B))]\n"
        "(ux, uy), (vx, vy) = B - A, C - A\n"
        'print(f"{abs(ux * vy - uy * vx) / sum(sides):.3f}")\n'
    ),
    "angle_measure": (
        "u, v = A - B, C - B\n"
        "cosine = u @ v / (np.hypot(*u) * np.hypot(*v))\n"
        'print(f"{np.degrees(np.arccos(np.clip(cosine, -1, 1))):.2f}")\n'
    ),
}


def advanced_geometry(meta: Meta) -> str:
    """Write a program that computes with vectors in numpy."""
    points = ", ".join(f"np.array([{', '.join(meta[name])}])" for name in "ABC")
    return f"import numpy as np\n\nA, B, C = {points}\n{_GEOMETRY[meta['task_type']]}"


def countdown(meta: Meta) -> str:
    """Write a program that checks the value of the generator's expression and prints the expression."""
    return f'answer = "{meta["expression"]}"\nassert eval(answer) == {meta["target"]}\nprint(answer)\n'


def gcd(meta: Meta) -> str:
    """Write a program that calls `math.gcd`."""
    return f"import math\n\nprint(math.gcd({', '.join(map(str, meta['numbers']))}))\n"


def lcm(meta: Meta) -> str:
    """Write a program that calls `math.lcm`."""
    return f"import math\n\nprint(math.lcm({', '.join(map(str, meta['numbers']))}))\n"


def count_bits(meta: Meta) -> str:
    """Write a program that counts the binary digits that are 1."""
    return f'print(bin({meta["number"]}).count("1"))\n'


def dice(meta: Meta) -> str:
    """Write a program that computes the probability that the total of the dice is at least the target."""
    puzzle = meta["puzzle"]
    sides = ", ".join(re.findall(r"1d(\d+)", puzzle["dice_str"]))
    return (
        "from fractions import Fraction\n\n"
        "ways = {0: 1}\n"
        f"for sides in [{sides}]:\n"
        "    totals = {}\n"
        "    for total, count in ways.items():\n"
        "        for face in range(1, sides + 1):\n"
        "            totals[total + face] = totals.get(total + face, 0) + count\n"
        "    ways = totals\n"
        f"good = sum(count for total, count in ways.items() if total >= {puzzle['target']})\n"
        "print(Fraction(good, sum(ways.values())))\n"
    )


def bitwise_arithmetic(meta: Meta) -> str:
    """Write a program that evaluates the expression. The expression is valid Python."""
    return f"print(hex({meta['problem']}))\n"


def decimal_chain_sum(meta: Meta) -> str:
    """Write a program that computes with exact decimals."""
    terms = re.sub(r"-?\d+\.?\d*", lambda found: f'Decimal("{found[0]}")', meta["expression"])
    return f"from decimal import Decimal\n\nprint({terms})\n"
