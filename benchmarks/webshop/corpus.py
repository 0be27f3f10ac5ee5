"""Makes any number of synthetic products, for measurements of search, memory and start.

The text of a product has 150 words on average. The words come from a list of 200,000 words. Their frequencies follow
Zipf's law, as in real texts. `built` writes a complete catalogue of these products, with goals and index.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from arlarena.environments.webshop.catalogue.build import BuildProgress, CatalogueFacts, Item, build_folder, locked
from arlarena.environments.webshop.catalogue.goals import Instruction
from arlarena.environments.webshop.catalogue.store import read_meta
from arlarena.environments.webshop.errors import CatalogueError
from arlarena.environments.webshop.shop.product import Product

WORDS, MEAN_LENGTH = 200_000, 150
TITLE_WORDS = 12
GOAL_EVERY = 50  # every 50th product has a goal
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def documents(count: int) -> Iterator[str]:
    """Yield the texts of `count` products. The text of a product does not depend on `count`."""
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(1, WORDS + 1)
    cumulated = np.cumsum(chances / chances.sum())
    words = np.array([_word(number) for number in range(WORDS)], dtype=object)
    for _ in range(0, count, 1000):
        lengths = rng.poisson(MEAN_LENGTH, 1000)
        drawn = np.minimum(np.searchsorted(cumulated, rng.random(int(lengths.sum()))), WORDS - 1)
        ends = np.cumsum(lengths)
        for end, length in zip(ends[:count], lengths, strict=False):
            yield " ".join(words[drawn[end - length : end]])
        count -= 1000


def queries(count: int, number: int) -> list[str]:
    """Return `number` queries for a catalogue of `count` products.

    Each query has 3 to 12 words of the text of one product. The product is one of the first 10,000 products.
    """
    draw = random.Random(1)
    texts = [text.split() for text in documents(min(count, 10_000))]
    return [" ".join(draw.sample(text, min(len(text), draw.randint(3, 12)))) for text in draw.sample(texts, number)]


def built(folder: Path, count: int) -> Path:
    """Return `folder`. If it does not contain a catalogue of `count` synthetic products, first build this catalogue."""
    key = f"benchmark/1/{count}"
    try:
        if read_meta(folder).key == key:
            return folder
    except CatalogueError:
        pass
    with locked(folder):
        build_folder(
            folder, _items(count), CatalogueFacts(key, "synthetic texts", None, "hash"), progress=BuildProgress(count)
        )
    return folder


def _items(count: int) -> Iterator[Item]:
    for number, text in enumerate(documents(count)):
        words = text.split(" ")
        price = 5.0 + number % 200
        product = Product(
            f"B{number:09d}", " ".join(words[:TITLE_WORDS]), " ".join(words[TITLE_WORDS:]), [], price, f"${price}", {},
            [words[0]], "kind", words[1], f"Shop › {words[1]} › {words[0]}", nouns=words[:4],
        )  # fmt: skip
        instructions = [Instruction(f"find me {words[0]} {words[1]}", [words[0]])] if number % GOAL_EVERY == 0 else []
        yield Item(product, instructions)


def _word(number: int) -> str:
    """Return the word with this number. Each word begins with q and ends with x, so the stemmer does not change it."""
    letters = ""
    while True:
        letters += LETTERS[number % 26]
        number //= 26
        if not number:
            return f"q{letters}x"
