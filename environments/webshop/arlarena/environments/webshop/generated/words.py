"""The word lists of the generated catalogue, from `data/words.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import capwords
from typing import Literal, get_args

Form = Literal["is", "with", "for", "of"]
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Attribute:
    """How the instructions of goals name an attribute.

    Attributes:
        form: how a sentence joins the attribute to the type: "long lasting lipstick", "boots with rubber sole",
            "cream for dry skin", "shelf made of stainless steel".
        paraphrases: clauses that follow the type and mean the same.
    """

    form: Form
    paraphrases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProductType:
    """A type of products.

    Attributes:
        query: the search query by which such products are collected.
        name: the name of the type in titles.
        aliases: other names of the type, which goals use.
        lowest, highest: range of prices in dollars.
        category: one of the five categories.
        path: path of categories, such as "Beauty & Personal Care › Hair Care › Shampoo".
        axes: the values of each axis of options, by the name of the axis.
        attributes: the attributes that such products may have.
        uses: what titles say the product is for.
    """

    query: str
    name: str
    aliases: tuple[str, ...]
    lowest: float
    highest: float
    category: str
    path: str
    axes: Mapping[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    uses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """The word lists.

    Attributes:
        types: all types. Types of one group, which share attributes and axes, are neighbours.
        attributes: the attributes by their text.
        brands: invented brands.
        fillers: words without meaning, for titles.
        mass_words: nouns of uncountable things.
        other_words: words of titles that are not nouns, in lower case.
    """

    types: tuple[ProductType, ...]
    attributes: Mapping[str, Attribute]
    brands: tuple[str, ...]
    fillers: tuple[str, ...]
    mass_words: frozenset[str]
    other_words: frozenset[str]

    def nouns(self, title: str) -> list[str]:
        """Return the nouns of a title in lower case, in order, with repetitions."""
        words = _WORD.findall(title.lower().replace("'s", ""))
        return [word for word in words if word not in self.other_words]


@cache
def load_words() -> Words:
    """Return the word lists of this package."""
    text = files(__package__).joinpath("data/words.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    return Words(
        tuple(kind for group in table["groups"] for kind in _types(group, table["values"])),
        {name: _attribute(line) for name, line in table["attributes"].items()},
        tuple(start + end for start in table["brand_starts"].split() for end in table["brand_ends"].split()),
        tuple(table["fillers"]),
        frozenset(table["mass_words"].split()),
        frozenset(table["other_words"].split()),
    )


def neighbours(types: Sequence[ProductType]) -> dict[str, list[ProductType]]:
    """Return for each type, by its query, the other types of the same group."""
    groups: dict[tuple[str, ...], list[ProductType]] = {}
    for kind in types:
        groups.setdefault(kind.attributes, []).append(kind)
    return {kind.query: [other for other in groups[kind.attributes] if other != kind] for kind in types}


def _types(group: Mapping[str, object], values: Mapping[str, list[str]]) -> list[ProductType]:
    axes = {}
    for line in _texts(group, "axes"):
        name, _, listed = line.partition(": ")
        axes[name] = tuple(values[listed])
    found = []
    for line in _texts(group, "types"):
        query, name, aliases, lowest, highest = line.split("; ")
        found.append(
            ProductType(
                query, name, tuple(aliases.split(" | ")), float(lowest), float(highest), str(group["category"]),
                _path(str(group["department"]), query, aliases), axes,
                tuple(_texts(group, "attributes")), tuple(_texts(group, "uses")),
            )
        )  # fmt: skip
    return found


def _path(department: str, query: str, aliases: str) -> str:
    """Return a path of categories. Types of one group share only the first category, so that the score of a purchase
    depends on the type.
    """
    return " › ".join([department, capwords(query), capwords(aliases.rpartition(" | ")[2])])


def _texts(group: Mapping[str, object], key: str) -> list[str]:
    value = group[key]
    assert isinstance(value, list)
    return [str(one) for one in value]


def _attribute(line: str) -> Attribute:
    form, _, paraphrases = line.partition("; ")
    assert form in get_args(Form), line
    return Attribute(form, tuple(paraphrases.split(" | ")))  # type: ignore[arg-type]
