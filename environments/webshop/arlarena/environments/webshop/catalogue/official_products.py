"""Products of the official files, by the rules of the function `load_products` in WebShop's code."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from arlarena.environment.hashing import seeded
from arlarena.environments.webshop.catalogue.problems import DataProblems
from arlarena.environments.webshop.shop.product import Product

NO_PRICE, NO_PRICE_TEXT = 100.0, "$100.0"  # for a product without a price
NO_ATTRIBUTES = ("DUMMY_ATTR",)  # for a product that is not in the file of attributes
LONGEST_ASIN = 10
_not_in_a_number = re.compile(r"[^\d.]", re.ASCII)


class Unusable(ValueError):
    """An entry of the file that cannot be a product. The message is the kind of problem."""


class Price(NamedTuple):
    """A price. `value`: the price of a purchase in dollars. `text`: the price as pages show it."""

    value: float
    text: str


def product_of(entry: object, attributes: list[str] | None, problems: DataProblems, where: str) -> Product:
    """Return the product of an entry.

    Args:
        entry: the entry of the file of products.
        attributes: the product's attributes in the file of attributes; None if the product is not in that file.
        problems: counts the invalid parts of the entry that a product does not need.
        where: the file and the asin, for messages.

    Raises:
        Unusable: the entry is not an object, or has no asin or no name.
    """
    if not isinstance(entry, Mapping):
        raise Unusable("an entry that is no object was left out")
    asin, title = asin_of(entry), _text(entry.get("name"))
    if not title.strip():
        raise Unusable("a product without a name was left out")
    options, images = _options(entry.get("customization_options"), problems, where)
    price = price_of(entry.get("pricing"), asin, problems, where)
    return Product(
        asin=asin,
        title=title,
        description=_text(entry.get("full_description")),
        bullets=_bullets(entry.get("small_description")),
        price=price.value,
        price_text=price.text,
        options=options,
        attributes=list(NO_ATTRIBUTES) if attributes is None else attributes,
        category=_text(entry.get("category")),
        query=_text(entry.get("query")).lower().strip(),
        product_category=_text(entry.get("product_category")),
        image=_first_image(entry.get("images")),
        option_images=images,
    )


def asin_of(entry: Mapping[str, Any]) -> str:
    """Return the asin (product id) of an entry.

    Raises:
        Unusable: the entry has no asin.
    """
    asin = _text(entry.get("asin"))
    if not asin or asin == "nan":
        raise Unusable("a product without an asin was left out")
    return asin


def price_of(pricing: object, asin: str, problems: DataProblems, where: str) -> Price:
    """Return the price for a text such as "$12.98" or "$10.00$14.50" (a range), or for a number. For a range,
    a price in the range is drawn; the seed is the asin (product id).
    """
    # The price is absent. pandas writes NaN for an absent text, and NaN differs from itself.
    if not pricing or pricing != pricing:
        return Price(NO_PRICE, NO_PRICE_TEXT)
    amounts = _amounts(pricing)
    if not amounts:
        problems.add("a price that cannot be read counts as missing", f"{where}: {pricing!r}")
        return Price(NO_PRICE, NO_PRICE_TEXT)
    if len(amounts) == 1:
        return Price(amounts[0], f"${amounts[0]}")
    return Price(seeded("webshop-price", asin).uniform(*amounts), f"${amounts[0]} to ${amounts[1]}")


def _amounts(pricing: object) -> list[float]:
    """Return the price, or the two ends of a range. Return an empty list if a number cannot be read, is negative or is
    infinite.
    """
    try:
        if isinstance(pricing, str):
            amounts = [float(_not_in_a_number.sub("", part)) for part in pricing.split("$")[1:3]]
        else:
            amounts = [float(pricing)] if isinstance(pricing, (int, float)) and not isinstance(pricing, bool) else []
    except (ValueError, OverflowError):
        return []
    return amounts if all(math.isfinite(amount) and amount >= 0 for amount in amounts) else []


def _options(value: object, problems: DataProblems, where: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return (options, images). `options`: the values of each option, by the option's name. `images`: the image of each
    value that has an image, by value.
    """
    options: dict[str, list[str]] = {}
    images: dict[str, str] = {}
    if not value:
        return options, images
    if not isinstance(value, Mapping):
        problems.add("options that are no object were left out", where)
        return options, images
    for name, contents in value.items():
        if contents is None:
            continue
        values = options[_clean(name.lower())] = []
        for content in contents if isinstance(contents, list) else [contents]:
            if not isinstance(content, Mapping) or not isinstance(content.get("value"), str):
                problems.add("an option without a value was left out", f"{where}: option {name!r}")
                continue
            text = _clean(content["value"]).strip().replace("/", " | ").lower()
            values.append(text)
            if image := _text(content.get("image")):
                images[text] = image
    return options, images


def _bullets(value: object) -> list[str]:
    parts = value if isinstance(value, list) else [value]
    return [_clean(part) for part in parts if isinstance(part, str)]


def _first_image(value: object) -> str:
    return _text(value[0]) if isinstance(value, list) and value else ""


def _text(value: object) -> str:
    """Return a text. Return "" for a value that is not a text, such as null or NaN."""
    return _clean(value) if isinstance(value, str) else ""


def _clean(text: str) -> str:
    """Replace unpaired surrogates, which JSON allows but UTF-8 does not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
