"""Goals: instructions for products, and the goals that follow from them.

An instruction written by a person is one goal. A synthetic instruction is a goal for each combination of the product's
options. Goals are stored as pairs of integers (instruction, combination), so that millions of them stay small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from arlarena.environment.hashing import seeded
from arlarena.environments.webshop.shop.goal import NO_LIMIT, Goal
from arlarena.environments.webshop.shop.product import Product

Options = list[tuple[str, str] | str]

PRICE_LIMITS = tuple(10.0 * tens for tens in range(1, 100))  # PRICE_RANGE of WebShop's goal.py
LIMITS_DRAWN_FROM = 4  # the lowest limits above the price, of which two are drawn
# Beyond this number of combinations the goals of one product would crowd out all others. The original has no bound.
MOST_COMBINATIONS = 10_000


class Instruction(msgspec.Struct, frozen=True):
    """An instruction for a product, as a source of products gives it.

    Attributes:
        text: the instruction. Option texts and the price limit are appended if they are not given here.
        attributes: what the purchase must have; not empty.
        options: what to choose. None: synthetic, there is a goal for each combination of the product's options.
        price_upper: the price limit in dollars. None: a limit is drawn, and its text appended. A limit that is given
            must be part of `text` already.
    """

    text: str
    attributes: list[str]
    options: Options | None = None
    price_upper: float | None = None


class StoredInstruction(msgspec.Struct, frozen=True):
    """An instruction of a built catalogue. `product`: its number. `price_text`: appended to the goal's instruction."""

    product: int
    text: str
    attributes: list[str]
    options: Options | None
    price_upper: float
    price_text: str


def stored(instruction: Instruction, number: int, product: Product) -> StoredInstruction:
    """Return the instruction with its price limit, as a built catalogue stores it."""
    upper, text = instruction.price_upper, ""
    if upper is None:
        upper = price_limit(product, instruction.text)
        text = "" if upper == NO_LIMIT else f", and price lower than {upper:.2f} dollars"
    return StoredInstruction(number, instruction.text, instruction.attributes, instruction.options, upper, text)


def price_limit(product: Product, instruction: str) -> float:
    """Draw the price limit of an instruction: the larger of two of the first four limits above the price.

    The drawing is seeded by product and instruction. As in the original, all goals of a synthetic instruction have the
    same limit.
    """
    limits = [limit for limit in PRICE_LIMITS if limit > product.price][:LIMITS_DRAWN_FROM]
    if len(limits) < 2:
        return NO_LIMIT
    return max(seeded("webshop-price-limit", product.asin, instruction).sample(limits, 2))


def combinations(options: Mapping[str, Sequence[str]]) -> int:
    """Return the number of combinations of option values. 1 if there are no options."""
    return math.prod(len(values) for values in options.values())


def combination(options: Mapping[str, Sequence[str]], number: int) -> list[tuple[str, str]]:
    """Return a combination by its number in the order of itertools.product over the sorted option names."""
    chosen: list[tuple[str, str]] = []
    for name in sorted(options, reverse=True):
        number, place = divmod(number, len(options[name]))
        chosen.append((name, options[name][place]))
    return chosen[::-1]


def goals_of(instruction: StoredInstruction, product: Product) -> int:
    """Return the number of goals of an instruction. The caller applies MOST_COMBINATIONS."""
    return combinations(product.options) if instruction.options is None else 1


def goal(instruction: StoredInstruction, product: Product, number: int) -> Goal:
    """Return a goal of an instruction. `number`: the combination of options of a synthetic instruction."""
    options, text = instruction.options, ""
    if options is None:
        pairs = combination(product.options, number)
        text = " with " + ", and ".join(f"{name}: {value}" for name, value in pairs) if pairs else ""
        options = list(pairs)
    return Goal(
        product=instruction.product,
        instruction=f"{instruction.text}{text}{instruction.price_text}",
        attributes=instruction.attributes,
        options=options,
        price_upper=instruction.price_upper,
    )


def content_key(goal: Goal, product: Product) -> tuple[str, ...]:
    """Return what two goals must not have in common if one is for training and one for evaluation: product, options."""
    options = ["\0".join(option) if isinstance(option, tuple) else option for option in goal.options]
    return (product.asin, *sorted(options))
