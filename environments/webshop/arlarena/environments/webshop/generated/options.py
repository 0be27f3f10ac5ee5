"""Options of the generated catalogue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from arlarena.environments.webshop.errors import CatalogueError

PRODUCTS = 10_000  # by default
FEWEST_PRODUCTS = 60  # ten families; with fewer, a split may have no goal
MOST_SHORT_IDS = 10_000  # ids of short texts have two parts of two digits

Texts = Literal["full", "short"]


@dataclass(frozen=True, slots=True)
class GeneratedOptions:
    """Options of the generated catalogue. All values are positive, except `axes` and `seed`, which may be 0.

    Attributes:
        products: number of products.
        seed: another catalogue by each seed.
        evaluation_goals: number of goals in each of `validation` and `test`.
        texts: `full`, as in a shop; or `short`, for a tiny policy: lower case, a title that names all attributes,
            prices in steps of five dollars, ids of two tokens, and instructions without paraphrases.
        types: maximum of product types in each of the five categories; None: all, some 30.
        axes: maximum of option axes of a product.
        values: maximum of values of an axis.
        goal_attributes: maximum of attributes of a goal.
    """

    products: int = PRODUCTS
    seed: int = 0
    evaluation_goals: int = 512
    texts: Texts = "full"
    types: int | None = None
    axes: int = 3
    values: int = 8
    goal_attributes: int = 3

    def check(self) -> None:
        """Raise CatalogueError if there can be no catalogue of these options."""
        if self.products < FEWEST_PRODUCTS:
            raise CatalogueError(
                f"products = {self.products}: the generated catalogue has at least {FEWEST_PRODUCTS} products"
            )
        if self.texts == "short" and self.products > MOST_SHORT_IDS:
            raise CatalogueError(
                f'products = {self.products}: a catalogue with texts = "short" has at most {MOST_SHORT_IDS} products'
            )

    @property
    def id_parts(self) -> int:
        """The number of values of each of the two parts of a short id: as few as possible. A tiny policy must learn to
        copy each of them.
        """
        return math.isqrt(self.products - 1) + 1

    def product_key(self) -> str:
        """Return the options that decide the products, as text for seeds."""
        return f"{self.seed}/{self.products}/{self.texts}/{self.types}/{self.axes}/{self.values}"

    def key(self) -> str:
        """Return all options as text."""
        return f"{self.product_key()}/{self.goal_attributes}/{self.evaluation_goals}"
