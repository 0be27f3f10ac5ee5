"""The families of generated problems. A family has a generator of reasoning-gym, a form of answers and an expert."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from arlarena.environments.tir_math.errors import ProblemsError
from arlarena.environments.tir_math.judge.scoring import Form
from arlarena.environments.tir_math.problems import experts
from arlarena.environments.tir_math.problems.countdown import fast_generator
from arlarena.environments.tir_math.problems.experts import Meta
from arlarena.environments.tir_math.problems.gym import generator
from arlarena.proto.text.names import nearest

RESERVED_OPTIONS = ("size", "seed")  # options of the generators that users cannot set

# Maximum values of options. With larger values, a generator may need seconds or gigabytes for one problem.
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
    """One family of problems. Attributes that are functions get the metadata that the generator returns for a problem.

    Attributes:
        name: the name in reasoning-gym.
        module, stem: the generator's module in reasoning-gym, and the first part of its class name (see
            `gym.generator`).
        form: the form of answers. The form determines how answers are compared (see `scoring`).
        content: returns the content of a problem. Problems with equal content are the same problem.
        expert: returns a program that solves the problem.
        weight: relative frequency in the default mix of families.
        defaults: options that replace the generator's defaults. These options make the problems harder, because
            policies can use Python.
        limits: maximum values of options, in addition to `LIMITS`.
        is_trivial: returns whether a problem can be solved by guessing. Such problems are not used.
    """

    name: str
    module: str
    stem: str
    form: Form | Callable[[Meta], Form]
    content: Callable[[Meta], object]
    expert: Callable[[Meta], str]
    weight: float = 1.0
    defaults: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    is_trivial: Callable[[Meta], bool] = lambda meta: False

    def form_of(self, meta: Meta) -> Form:
        """Return the form of answers to one problem."""
        return self.form(meta) if callable(self.form) else self.form


def _triangle_form(meta: Meta) -> Form:
    forms: dict[str, Form] = {"orthocenter": "point", "incircle_radius": "radius", "angle_measure": "angle"}
    return forms[meta["task_type"]]


def _triangle(meta: Meta) -> object:
    """Return the kind of question, the vertex of the angle (None if the question is not about an angle), and all
    vertices in sorted order.
    """
    apex = meta["B"] if meta["task_type"] == "angle_measure" else None
    return meta["task_type"], apex, sorted(meta[name] for name in "ABC")


def _polynomial(meta: Meta) -> object:
    """Return the polynomial with its variable renamed to x."""
    return re.sub(rf"\b{meta['variable']}\b", "x", meta["polynomial_expr"])


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "count_primes", "algorithmic.count_primes", "CountPrimes", "number",
            lambda meta: (meta["start"], meta["end"]), experts.count_primes,
        ),
        Family(
            "prime_factorization", "arithmetic.prime_factorization", "PrimeFactorization", "factors",
            lambda meta: meta["number"], experts.prime_factorization,
            defaults={"max_value": 1_000_000}, limits={"max_value": 10**10},
        ),
        Family(
            "products", "arithmetic.products", "Products", "number",
            lambda meta: sorted(meta["expression"].split(" * ")), experts.products,
            defaults={"min_digits": 3, "max_digits": 7, "max_terms": 3},
        ),
        Family(
            "base_conversion", "algorithmic.base_conversion", "BaseConversion", "digits",
            lambda meta: (meta["decimal_value"], meta["source_base"], meta["target_base"]), experts.base_conversion,
            defaults={"max_value": 1_000_000},
        ),
        Family(
            "polynomial_equations", "algebra.polynomial_equations", "PolynomialEquations", "roots",
            _polynomial, experts.polynomial_equations, is_trivial=lambda meta: meta["real_solutions"] in ([], [0.0]),
        ),
        Family(
            "advanced_geometry", "geometry.advanced_geometry", "AdvancedGeometry", _triangle_form,
            _triangle, experts.advanced_geometry,
        ),
        Family(
            "countdown", "games.countdown", "Countdown", "expression",
            lambda meta: (sorted(meta["numbers"]), meta["target"]), experts.countdown,
        ),
        Family("gcd", "arithmetic.gcd", "GCD", "number", lambda meta: sorted(meta["numbers"]), experts.gcd,
               weight=0.5, defaults={"max_numbers": 3, "max_value": 1_000_000},
               is_trivial=lambda meta: meta["result"] <= 2),
        Family("lcm", "arithmetic.lcm", "LCM", "number", lambda meta: sorted(meta["numbers"]), experts.lcm,
               weight=0.5, defaults={"max_numbers": 4, "max_value": 1_000}),
        Family("count_bits", "arithmetic.count_bits", "CountBits", "number", lambda meta: meta["number"],
               experts.count_bits, weight=0.5),
        Family("dice", "arithmetic.dice", "Dice", "number",
               lambda meta: (meta["puzzle"]["dice_str"], meta["puzzle"]["target"]), experts.dice),
        Family("bitwise_arithmetic", "arithmetic.bitwise_arithmetic", "BitwiseArithmetic", "digits",
               lambda meta: meta["problem"], experts.bitwise_arithmetic, weight=0.5, defaults={"difficulty": 3}),
        Family("decimal_chain_sum", "arithmetic.decimal_chain_sum", "DecimalChainSum", "number",
               lambda meta: meta["expression"], experts.decimal_chain_sum, weight=0.5),
    )
}  # fmt: skip


def prepare(name: str, values: Mapping[str, Any]) -> Any:
    """Return the generator of a family. The options `values` override the family's defaults.

    Raises:
        ProblemsError: reasoning-gym is not installed, the family or an option is unknown, or a value is out of range.
    """
    if name not in FAMILIES:
        raise ProblemsError(f"unknown family {name!r}; {nearest(name, FAMILIES)}")
    family = FAMILIES[name]
    dataset, config = generator(family.module, family.stem)
    known = {one.name for one in fields(config)} - set(RESERVED_OPTIONS)
    for key, value in values.items():
        if key not in known:
            raise ProblemsError(f"{name}: unknown option {key!r}; {nearest(key, known)}")
        limit = {**LIMITS, **family.limits}.get(key)
        if limit is not None and isinstance(value, int) and value > limit:
            raise ProblemsError(f"{name}: {key} = {value}: must be at most {limit}")
    try:
        meta = TypeAdapter(config).validate_python({**family.defaults, **values, "seed": 0})
        return fast_generator(dataset)(meta) if name == "countdown" else dataset(meta)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ProblemsError(f"{name}: {where} = {first['input']!r}: {first['msg']}") from error
    except (AssertionError, ValueError) as error:  # from the generator's own `validate`
        raise ProblemsError(f"{name}: {error or 'options that contradict each other'}") from error
