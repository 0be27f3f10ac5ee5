"""Options of the generated catalogue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from arlarena.environments.webshop.errors import CatalogueError

PRODUCTS = 10_000  # default number of products
# Minimum number of products: ten families of near-duplicates (see `products`). With fewer products, a split may have no
# goal.
FEWEST_PRODUCTS = 60
MOST_SHORT_IDS = 10_000  # maximum number of products with short texts: their ids have two parts of two digits

Texts = Literal["full", "short"]


@dataclass(frozen=True, slots=True)
class GeneratedOptions:
    """Options of the generated catalogue. All values are positive, except `axes` and `seed`, which may be 0.

    Attributes:
        products: number of products.
        seed: the seed of the catalogue. Each seed gives another catalogue.
        evaluation_goals: number of goals in each of `validation` and `test`.
        texts: `full`, as in a shop; or `short`, for a tiny policy: lower case, a title that names all attributes,
            prices in steps of five dollars, ids of two tokens, and instructions without paraphrases.
        types: maximum number of product types in each of the five categories; None for all types, about 30.
        axes: maximum number of axes (kinds of options, such as color) of a product.
        values: maximum number of values of an axis.
        goal_attributes: maximum number of attributes of a goal.
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
        """Raise CatalogueError if no catalogue is possible with these options."""
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
        """The number of different values that each of the two parts of a short id can have. It is as small as possible,
        because a tiny policy must learn to copy each value.
        """
        return math.isqrt(self.products - 1) + 1

    def product_key(self) -> str:
        """Return the options that decide the products, as text for seeds."""
        return f"{self.seed}/{self.products}/{self.texts}/{self.types}/{self.axes}/{self.values}"

    def key(self) -> str:
        """Return all options as text."""
        return f"{self.product_key()}/{self.goal_attributes}/{self.evaluation_goals}"
