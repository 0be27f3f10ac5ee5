"""The families of problems that are made here: what generates each, how its answers are compared, who solves it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from arlarena.environments.tir_math.errors import ProblemsError
from arlarena.environments.tir_math.judge.scoring import Form
from arlarena.environments.tir_math.problems import experts
from arlarena.environments.tir_math.problems.countdown import fast
from arlarena.environments.tir_math.problems.experts import Made
from arlarena.environments.tir_math.problems.gym import generator
from arlarena.proto.text.names import nearest

OURS = ("size", "seed")  # of a generator's options: how many problems and which is said by split and index
# Where a generator would take seconds or gigabytes for one problem.
LIMITS = {
    "max_n": 10**6,
    "max_terms": 64,
    "max_digits": 100,
    "max_numbers": 32,
    "max_degree": 4,
    "num_dice": 10,
    "max_dice_size": 100,
}


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of problems.

    Attributes:
        name: as in reasoning-gym.
        module, stem: where its generator is, see `gym.generator`.
        form: how answers are compared.
        content: what makes two of its problems the same, from what the generator says of one.
        expert: a program that solves one.
        weight: its share in the default mix.
        defaults: where ours are not those of the generator: a player has Python.
        limits: as `LIMITS`, for this one.
        dull: what is no problem, as guessing is enough.
    """

    name: str
    module: str
    stem: str
    form: Form | Callable[[Made], Form]
    content: Callable[[Made], object]
    expert: Callable[[Made], str]
    weight: float = 1.0
    defaults: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    dull: Callable[[Made], bool] = lambda made: False

    def form_of(self, made: Made) -> Form:
        """How answers to one problem are compared."""
        return self.form(made) if callable(self.form) else self.form


def _of_triangle(made: Made) -> Form:
    forms: dict[str, Form] = {"orthocenter": "point", "incircle_radius": "radius", "angle_measure": "angle"}
    return forms[made["task_type"]]


def _triangle(made: Made) -> object:
    """The vertices; the order of two of them, or of all, is no part of what is asked."""
    apex = made["B"] if made["task_type"] == "angle_measure" else None
    return made["task_type"], apex, sorted(made[name] for name in "ABC")


def _polynomial(made: Made) -> object:
    """The polynomial, whatever its variable is called."""
    return re.sub(rf"\b{made['variable']}\b", "x", made["polynomial_expr"])


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "count_primes", "algorithmic.count_primes", "CountPrimes", "number",
            lambda made: (made["start"], made["end"]), experts.count_primes,
        ),
        Family(
            "prime_factorization", "arithmetic.prime_factorization", "PrimeFactorization", "factors",
            lambda made: made["number"], experts.prime_factorization,
            defaults={"max_value": 1_000_000}, limits={"max_value": 10**10},
        ),
        Family(
            "products", "arithmetic.products", "Products", "number",
            lambda made: sorted(made["expression"].split(" * ")), experts.products,
            defaults={"min_digits": 3, "max_digits": 7, "max_terms": 3},
        ),
        Family(
            "base_conversion", "algorithmic.base_conversion", "BaseConversion", "digits",
            lambda made: (made["decimal_value"], made["source_base"], made["target_base"]), experts.base_conversion,
            defaults={"max_value": 1_000_000},
        ),
        Family(
            "polynomial_equations", "algebra.polynomial_equations", "PolynomialEquations", "roots",
            _polynomial, experts.polynomial_equations, dull=lambda made: made["real_solutions"] in ([], [0.0]),
        ),
        Family(
            "advanced_geometry", "geometry.advanced_geometry", "AdvancedGeometry", _of_triangle,
            _triangle, experts.advanced_geometry,
        ),
        Family(
            "countdown", "games.countdown", "Countdown", "expression",
            lambda made: (sorted(made["numbers"]), made["target"]), experts.countdown,
        ),
        Family("gcd", "arithmetic.gcd", "GCD", "number", lambda made: sorted(made["numbers"]), experts.gcd,
               weight=0.5, defaults={"max_numbers": 3, "max_value": 1_000_000}, dull=lambda made: made["result"] <= 2),
        Family("lcm", "arithmetic.lcm", "LCM", "number", lambda made: sorted(made["numbers"]), experts.lcm,
               weight=0.5, defaults={"max_numbers": 4, "max_value": 1_000}),
        Family("count_bits", "arithmetic.count_bits", "CountBits", "number", lambda made: made["number"],
               experts.count_bits, weight=0.5),
        Family("dice", "arithmetic.dice", "Dice", "number",
               lambda made: (made["puzzle"]["dice_str"], made["puzzle"]["target"]), experts.dice),
        Family("bitwise_arithmetic", "arithmetic.bitwise_arithmetic", "BitwiseArithmetic", "digits",
               lambda made: made["problem"], experts.bitwise_arithmetic, weight=0.5, defaults={"difficulty": 3}),
        Family("decimal_chain_sum", "arithmetic.decimal_chain_sum", "DecimalChainSum", "number",
               lambda made: made["expression"], experts.decimal_chain_sum, weight=0.5),
    )
}  # fmt: skip


def prepare(name: str, values: Mapping[str, Any]) -> Any:
    """The generator of a family, with options over our defaults.

    Raises:
        ProblemsError: an unknown family or option, or a value that the generator refuses.
    """
    if name not in FAMILIES:
        raise ProblemsError(f"unknown family {name!r}; {nearest(name, FAMILIES)}")
    family = FAMILIES[name]
    dataset, config = generator(family.module, family.stem)
    known = {one.name for one in fields(config)} - set(OURS)
    for key, value in values.items():
        if key not in known:
            raise ProblemsError(f"{name}: unknown option {key!r}; {nearest(key, known)}")
        limit = {**LIMITS, **family.limits}.get(key)
        if limit is not None and isinstance(value, int) and value > limit:
            raise ProblemsError(f"{name}: {key} = {value}: {limit} at most")
    try:
        made = TypeAdapter(config).validate_python({**family.defaults, **values, "seed": 0})
        return fast(dataset)(made) if name == "countdown" else dataset(made)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ProblemsError(f"{name}: {where} = {first['input']!r}: {first['msg']}") from error
    except (AssertionError, ValueError) as error:  # what the generators' own `validate` raises
        raise ProblemsError(f"{name}: {error or 'options that contradict each other'}") from error
