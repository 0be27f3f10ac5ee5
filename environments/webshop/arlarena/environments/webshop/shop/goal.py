"""The goals of episodes."""

from __future__ import annotations

import msgspec

NO_LIMIT = 1_000_000.0  # `price_upper` of a goal without a price limit


class Goal(msgspec.Struct, frozen=True):
    """The goal of an episode.

    Attributes:
        product: number of the goal's product in the catalogue.
        instruction: the instruction text, with the price limit if there is one.
        attributes: the attributes that the purchase must have; not empty.
        options: the options to choose. A synthetic goal has pairs (name, value); a goal written by a person has values.
        price_upper: the price limit in dollars, or `NO_LIMIT`.
    """

    product: int
    instruction: str
    attributes: list[str]
    options: list[tuple[str, str] | str]
    price_upper: float
