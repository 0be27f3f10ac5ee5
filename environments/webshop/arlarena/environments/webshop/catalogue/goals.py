"""Goals: instructions for products, and the goals that follow from them.

An instruction written by a person gives one goal. A synthetic instruction gives one goal for each combination of the
product's options. A goal is stored as a pair of integers (instruction, combination), so that millions of goals take
little space.
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
LIMITS_DRAWN_FROM = 4  # number of limits from which two are drawn: the lowest limits above the price
# Maximum number of combinations of one instruction that become goals. Without a maximum, a few products could have most
# of the goals. WebShop's code has no maximum.
MAX_COMBINATIONS = 10_000


class Instruction(msgspec.Struct, frozen=True):
    """An instruction for a product, as read from a source.

    Attributes:
        text: the instruction. If `options` is None, the goal's options are appended to it. If `price_upper` is None,
            the price limit is appended to it.
        attributes: the attributes that the purchase must have; not empty.
        options: the options to choose. None for a synthetic instruction, which gives a goal for each combination of the
            product's options.
        price_upper: the price limit in dollars. If a limit is given, `text` must state it. If None, a limit is drawn.
    """

    text: str
    attributes: list[str]
    options: Options | None = None
    price_upper: float | None = None


class StoredInstruction(msgspec.Struct, frozen=True):
    """An instruction of a built catalogue. `product`: the number of the product. `price_text`: the text about the price
    limit. This text is appended to each goal's instruction.
    """

    product: int
    text: str
    attributes: list[str]
    options: Options | None
    price_upper: float
    price_text: str


def stored(instruction: Instruction, number: int, product: Product) -> StoredInstruction:
    """Return the instruction with its price limit, as a built catalogue stores it. `number`: the product's number."""
    upper, text = instruction.price_upper, ""
    if upper is None:
        upper = price_limit(product, instruction.text)
        text = "" if upper == NO_LIMIT else f", and price lower than {upper:.2f} dollars"
    return StoredInstruction(number, instruction.text, instruction.attributes, instruction.options, upper, text)


def price_limit(product: Product, instruction: str) -> float:
    """Draw the price limit of an instruction: the larger of two limits, drawn from the four lowest limits above the
    price.

    The product and the instruction are the seed. As in WebShop's code, all goals of a synthetic instruction have the
    same limit. If fewer than two limits are above the price, return NO_LIMIT.
    """
    limits = [limit for limit in PRICE_LIMITS if limit > product.price][:LIMITS_DRAWN_FROM]
    if len(limits) < 2:
        return NO_LIMIT
    return max(seeded("webshop-price-limit", product.asin, instruction).sample(limits, 2))


def combinations(options: Mapping[str, Sequence[str]]) -> int:
    """Return the number of combinations of option values. Return 1 if there are no options."""
    return math.prod(len(values) for values in options.values())


def combination(options: Mapping[str, Sequence[str]], number: int) -> list[tuple[str, str]]:
    """Return the pairs (name, value) of combination `number`. The order is that of itertools.product over the sorted
    option names.
    """
    chosen: list[tuple[str, str]] = []
    for name in sorted(options, reverse=True):
        number, place = divmod(number, len(options[name]))
        chosen.append((name, options[name][place]))
    return chosen[::-1]


def goals_of(instruction: StoredInstruction, product: Product) -> int:
    """Return the number of goals of an instruction. The caller must apply the maximum MAX_COMBINATIONS."""
    return combinations(product.options) if instruction.options is None else 1


def goal(instruction: StoredInstruction, product: Product, number: int) -> Goal:
    """Return a goal of an instruction. `number`: for a synthetic instruction, the number of the
    combination of options.
    """
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
    """Return the key of a goal: its product and its options. A training goal and an evaluation goal must have different
    keys.
    """
    options = ["\0".join(option) if isinstance(option, tuple) else option for option in goal.options]
    return (product.asin, *sorted(options))
