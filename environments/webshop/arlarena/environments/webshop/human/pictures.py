"""Pictures of products: a drawing for the product's name or category, or the image that the official files name."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from arlarena.environment.hashing import digest
from arlarena.environments.webshop.human.markup import Html, element
from arlarena.environments.webshop.shop.product import Product

# Colours of drawings by the words of option values.
COLOURS = {
    "black": "#3a3d42", "white": "#e9e7e1", "ivory": "#e8dfc8", "beige": "#d9c4a0", "gray": "#8d949c",
    "grey": "#8d949c", "silver": "#b6bcc4", "navy": "#2b3f6b", "blue": "#3f78c9", "teal": "#2c8c8c",
    "turquoise": "#3fbfb5", "green": "#3f9a55", "olive": "#7d8240", "khaki": "#a89a68", "yellow": "#e9c12f",
    "gold": "#d0a640", "orange": "#e5812e", "coral": "#ec7763", "red": "#cf3b3b", "burgundy": "#7f2336",
    "pink": "#ea8fb1", "rose": "#d98a94", "purple": "#7d52a8", "lavender": "#b09ad8", "brown": "#855a3a",
    "copper": "#b8703f", "bronze": "#98703f", "walnut": "#6b4a30", "espresso": "#4a3428", "oak": "#c29a62",
    "cherry": "#8c3f33", "chestnut": "#7c4a32", "teak": "#a5713f", "natural": "#cfae7d", "honey": "#dca03a",
    "caramel": "#b97f45", "vanilla": "#ead9a8", "lemon": "#ecd344", "mint": "#8fd1b0", "peach": "#f2b48c",
    "berry": "#8e3a6b", "plum": "#6d3a63", "nude": "#d3a58c", "mauve": "#a77d94", "cocoa": "#6a4532",
}  # fmt: skip
_WORD = re.compile(r"[a-z]+")
_OF_CATEGORY = {"fashion": "shirt", "garden": "chair", "grocery": "snack"}


class _Icon(NamedTuple):
    words: frozenset[str]
    svg: Html


@cache
def _icons() -> dict[str, _Icon]:
    data = tomllib.loads(files(__package__).joinpath("icons.toml").read_text(encoding="utf-8"))
    return {name: _Icon(frozenset(icon["words"].split()), Html(icon["svg"])) for name, icon in data.items()}


def icon_name(product: Product) -> str:
    """Return the name of the drawing for a product. A word of the product's query determines the drawing. If no word of
    the query has a drawing, a word of the title determines it, or else the category.
    """
    for text in (product.query, product.title):
        words = _WORD.findall(text.lower()[:500])
        for word in reversed(words):  # the last noun of a name is the kind of product: "rain boots"
            for name, icon in _icons().items():
                if word in icon.words:
                    return name
    category = product.category
    return category if category in _icons() else _OF_CATEGORY.get(category, "box")


def picture(product: Product, chosen: Iterable[str] = (), *, remote: bool = False) -> Html:
    """Return the picture of a product.

    Args:
        product: the product.
        chosen: the chosen option values. A value with the name of a colour decides the colour of the drawing.
        remote: whether to show the image that the official files name. The browser loads it from another server.
    """
    values = list(chosen)
    url = next((product.option_images[value] for value in values if value in product.option_images), product.image)
    if remote and url.startswith(("https://", "http://")):
        return element("img", src=url, alt="", loading="lazy", referrerpolicy="no-referrer")
    return _drawing(icon_name(product), _colour(product, values), int(digest(product.asin)[:4], 16) % 360)


def _colour(product: Product, chosen: list[str]) -> str:
    """Return the colour of a drawing: the colour that a chosen option names, else the colour that the title names, else
    a colour computed from the asin.
    """
    for text in [*reversed(chosen), product.title]:
        for word in _WORD.findall(text.lower()[:500]):
            if word in COLOURS:
                return COLOURS[word]
    return f"hsl({int(digest(product.asin), 16) % 360},45%,52%)"


def _drawing(name: str, colour: str, hue: int) -> Html:
    backdrop = element("rect", width=120, height=120, fill=f"hsl({hue},35%,94%)")
    return element(
        "svg", backdrop, _icons()[name].svg, viewBox="0 0 120 120", color=colour, role="img", aria_hidden="true"
    )
