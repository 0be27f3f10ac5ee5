"""Small WebShop catalogues for tests: files in the official format, and items for `build_folder`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arlarena.environments.webshop.catalogue.build import CatalogueFacts, Item, build_folder
from arlarena.environments.webshop.catalogue.goals import Instruction
from arlarena.environments.webshop.catalogue.store import StoredCatalogue
from arlarena.environments.webshop.shop.product import Product


@dataclass
class Options:
    """The options that `open_catalogue` reads."""

    data: Path | None = None
    index: Path | None = None
    products: int | None = None
    goals: str = "synthetic"


class FakeNouns:
    """A replacement for spaCy, which is an optional package: every word with more than three letters is a noun."""

    version = "fake"

    def find(self, titles: Sequence[str]) -> list[list[str]]:
        return [[word for word in title.lower().split() if len(word) > 3] for title in titles]


def entry(asin: str = "B000000001", **fields: Any) -> dict[str, Any]:
    """Return a product in the official format."""
    values = {
        "asin": asin,
        "name": f"Red Shoe {asin}",
        "full_description": "A shoe.",
        "small_description": ["Soft sole", "Light"],
        "pricing": "$12.98",
        "customization_options": {"Color": [{"value": "Red", "image": "http://x/red.jpg"}, {"value": " Navy/Blue "}]},
        "product_category": "Clothing › Shoes",
        "category": "fashion",
        "query": " Running Shoes ",
        "images": ["http://x/1.jpg"],
    }
    return values | fields


def write_official(
    folder: Path,
    entries: list[Any],
    attributes: dict[str, Any] | None = None,
    human: dict[str, Any] | None = None,
    name: str = "items_shuffle_1000.json",
) -> Path:
    """Write files in the official format. Without `attributes`, each product has one synthetic instruction."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(entries))
    if attributes is None:
        made = {"attributes": ["soft sole"], "instruction": "Find me shoes", "instruction_attributes": ["soft sole"]}
        attributes = {item["asin"]: made for item in entries if isinstance(item, dict) and "asin" in item}
    (folder / "items_ins_v2_1000.json").write_text(json.dumps(attributes))
    if human is not None:
        (folder / "items_human_ins.json").write_text(json.dumps(human))
    return folder


def product(number: int, **fields: Any) -> Product:
    """Return a product for a catalogue that is built from items."""
    values: dict[str, Any] = {
        "asin": f"A{number:09}",
        "title": f"Shoe number{number} {'red' if number % 2 else 'blue'}",
        "description": "",
        "bullets": [],
        "price": 10.0 + number % 900,
        "price_text": "$10.0",
        "options": {"size": ["s", "m"], "color": ["red", "blue", "green"]},
        "attributes": ["soft"],
        "category": "fashion",
        "query": "shoes",
        "product_category": "Clothing › Shoes",
        "nouns": ["shoe"],
    }
    return Product(**values | fields)


def synthetic_item(number: int, **fields: Any) -> Item:
    """Return a product with a synthetic instruction."""
    return Item(product(number, **fields), [Instruction("Find me shoes", ["soft"])])


def built(target: Path, items: list[Item], splits: Any = "official") -> StoredCatalogue:
    """Build a catalogue of these items in the folder `target`."""
    build_folder(target, items, CatalogueFacts("key", "of a test", None, splits))
    return StoredCatalogue(target)
