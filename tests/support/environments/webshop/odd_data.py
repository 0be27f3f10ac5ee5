"""Data files in the official format with unusual content. A user's own products can have such content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.environments.webshop_catalogue_support import entry, write_official

SCRIPT = "<script>alert(1)</script>"


def values(*texts: Any) -> list[dict[str, Any]]:
    """Return the values of an option in the official format."""
    return [{"value": text, "image": None} for text in texts]


# Name of the unusual property → fields of the product. The asin of a product is "B" and its position in this table.
ODD = {
    "no price": {"pricing": None},
    "price range": {"pricing": "$10.00$14.50"},
    "thousands": {"pricing": "$1,234.56"},
    "price as a number": {"pricing": 12.98},
    "characters": {
        "customization_options": {
            "Größe": values("\"L\"", "it's", "☕ 茶", "a\nb", "x | y", "a [SEP] b", "<b>b</b>", "[x]", "\x00\x1b[1m"),
            "a | b [SEP] c": values("&amp;", "</label>", "%s", "\\n"),
        }
    },
    "case": {"customization_options": {"Size": values("Small", "SMALL", "small"), "Color": values("Red", "RED")}},
    "axes that differ by case": {"customization_options": {"Color": values("Red"), "COLOR": values("Blue")}},
    "buttons": {
        "customization_options": {"Pack": values("Buy Now", "Search", "< Prev", "Next >", "Back to Search", "Features")}
    },
    "no description": {"full_description": "", "small_description": []},
    "null": dict.fromkeys(
        ("full_description", "small_description", "pricing", "customization_options", "product_category", "category",
         "query", "images"),
    ),
    "html": {"name": f"Lamp {SCRIPT}", "full_description": SCRIPT, "small_description": [SCRIPT, "</body>"]},
    "long": {"name": "Lamp " + " ".join(f"word{number}" for number in range(2000)), "full_description": "x" * 100_000},
    "blank": {"name": " \u00a0 . ", "full_description": " \n ", "small_description": ["", "\n"]},
    "separator": {"name": "Lamp [SEP] Buy Now", "small_description": ["[SEP]", " | "]},
}  # fmt: skip
LEFT_OUT = [
    entry("B00", name="a second product with this asin"),
    entry("BEMPTY", name=""),
    entry("BNULL", name=None),
    entry(None),
    [],
    None,
]


def asin_of(name: str) -> str:
    """Return the asin of a product of `ODD`."""
    return f"B{list(ODD).index(name):02}"


def write_odd(folder: Path) -> Path:
    """Write files with `ODD` products, products that the catalogue skips (`LEFT_OUT`), and human instructions."""
    products = []
    for name, fields in ODD.items():
        one = entry(asin := asin_of(name), **fields)
        one["name"] += f" {asin}"  # because a search finds words of titles, but no asins
        products.append(one)
    human = {
        one["asin"]: [
            {"instruction": f"i need {one['asin']}.", "instruction_attributes": ["soft sole"], **options}
            for options in ({"instruction_options": ["red"]}, {"instruction_options": None}, {})
        ]
        for one in products
    }
    human["B99"] = [{"instruction": "a missing product", "instruction_attributes": ["soft"]}]
    human["B00"] += [
        {"instruction": None, "instruction_attributes": ["a"]},
        {"instruction": ".", "instruction_attributes": ["a"]},
        {"instruction": "without attributes", "instruction_attributes": None},
    ]
    attributes = {
        one["asin"]: {"attributes": ["soft sole"], "instruction": "Find me it", "instruction_attributes": ["soft sole"]}
        for one in products
    }
    attributes[asin_of("no description")]["attributes"] = None
    attributes[asin_of("null")] = {"attributes": None, "instruction": None, "instruction_attributes": None}
    return write_official(folder, [*products, *LEFT_OUT], attributes, human)
