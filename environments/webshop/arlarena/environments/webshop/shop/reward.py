"""The score of a purchase with its parts, as WebShop's code ("the original") computes them.

    score = type score * (attributes matched + options matched + [price ok]) / (attributes + options + 1)

Two texts count as equal if `thefuzz.fuzz.token_set_ratio(a, b) > 85`. Like thefuzz, this module computes the ratio with
rapidfuzz.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from rapidfuzz.fuzz import token_set_ratio
from rapidfuzz.utils import default_process

from arlarena.environments.webshop.shop.colours import first_colour, first_colour_of_pair
from arlarena.environments.webshop.shop.goal import Goal
from arlarena.environments.webshop.shop.product import Product

MIN_RATIO = 86  # minimum ratio of two texts that count as equal, in percent, rounded to an integer
NO_NOUNS_SCORE = 0.2  # title score if the title of the goal's product has no noun
_NOT_ASCII = dict.fromkeys(range(128, 256))  # thefuzz removes exactly these characters


class TypeScore(msgspec.Struct, frozen=True):
    """How well the kind of the purchased product matches the kind of the goal's product.

    Attributes:
        query_match: whether both products were collected by the same query.
        category_match: whether the products' category paths share at least two categories.
        title_score: share of the nouns in the title of the goal's product that are also in the title of the purchased
            product.
    """

    query_match: bool
    category_match: bool
    title_score: float

    @property
    def factor(self) -> float:
        """The factor of the score: 1, 0.5, 0.1 or 0."""
        if self.title_score == 0.0:
            return 0.0
        if self.title_score < 0.1:
            return 0.1
        return 1.0 if self.query_match or self.category_match or self.title_score > 0.2 else 0.5


class PurchaseScore(msgspec.Struct, frozen=True):
    """The score of a purchase and its parts.

    Attributes:
        type: the comparison of the kinds of the two products.
        attributes_matched, attributes: how many attributes of the goal the product has, and how many the goal has.
        options_matched, options: how many options of the goal were chosen, and how many the goal has.
        price_ok: whether the price is at most the limit.
    """

    type: TypeScore
    attributes_matched: int
    attributes: int
    options_matched: int
    options: int
    price_ok: bool

    @property
    def total(self) -> float:
        """The score, 0 to 1. It is exactly 1.0 if all parts match."""
        matched = self.attributes_matched + self.options_matched + self.price_ok
        return matched / self._parts * self.type.factor

    def details(self) -> dict[str, float | bool]:
        """Return the parts by their names in WebShop's code. Without options, `r_option` and `w_option` are missing."""
        details: dict[str, float | bool] = {
            "r_type": self.type.factor,
            "r_att": self.attributes_matched / self.attributes,
            "w_att": self.attributes / self._parts,
            "query_match": self.type.query_match,
            "category_match": self.type.category_match,
            "title_score": self.type.title_score,
        }
        if self.options:
            details |= {"r_option": self.options_matched / self.options, "w_option": self.options / self._parts}
        return details | {"r_price": self.price_ok, "w_price": 1 / self._parts}

    @property
    def _parts(self) -> int:
        return self.attributes + self.options + 1


def score_purchase(goal: Goal, wanted: Product, bought: Product, chosen: Iterable[str]) -> PurchaseScore:
    """Return the score of a purchase.

    Args:
        goal: the goal.
        wanted: the goal's product.
        bought: the purchased product.
        chosen: the values of the options that were chosen.
    """
    return PurchaseScore(
        type_score(wanted, bought),
        matched_attributes(goal.attributes, bought),
        len(goal.attributes),
        matched_options(goal.options, chosen),
        len(goal.options),
        bought.price <= goal.price_upper,
    )


def type_score(wanted: Product, bought: Product) -> TypeScore:
    """Compare the kinds of two products."""
    shared = _categories(wanted) & _categories(bought)
    nouns = set(wanted.nouns) & set(bought.nouns)
    title_score = len(nouns) / len(wanted.nouns) if wanted.nouns else NO_NOUNS_SCORE
    return TypeScore(wanted.query == bought.query, len(shared) >= 2, title_score)


def matched_attributes(wanted: Iterable[str], bought: Product) -> int:
    """Return how many of the attributes `wanted` a product has. The product has an attribute if its list of attributes
    has an equal text, or if one of its texts contains the attribute literally.
    """
    having = [_processed(attribute) for attribute in bought.attributes]
    texts = (bought.title.lower(), " ".join(bought.bullets).lower(), bought.description.lower())
    return sum(
        _matches(_processed(attribute), having) or any(attribute in text for text in texts) for attribute in wanted
    )


def matched_options(wanted: Iterable[tuple[str, str] | str], chosen: Iterable[str]) -> int:
    """Return how many of a goal's options `wanted` were chosen. If a value contains colours, only the first colour is
    compared.
    """
    having = [_processed(first_colour(value)) for value in chosen]
    names = (first_colour(option) if isinstance(option, str) else first_colour_of_pair(*option) for option in wanted)
    return sum(_matches(_processed(name), having) for name in names)


def _categories(product: Product) -> set[str]:
    return {category.strip() for category in product.product_category.split("›")}


def _processed(text: str) -> str:
    """Return a text in lower case. All characters except letters and digits become spaces."""
    return default_process(text.translate(_NOT_ASCII))


def _matches(text: str, others: Sequence[str]) -> bool:
    return any(round(token_set_ratio(other, text)) >= MIN_RATIO for other in others)
