"""The goals of the generated catalogue. The catalogue's options, the split and the index determine each goal.

The *content* of a goal is its product and the options to choose.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from random import Random

from arlarena.environment.hashing import digest, seeded, split_of_digest
from arlarena.environments.webshop.errors import CatalogueError
from arlarena.environments.webshop.generated.options import GeneratedOptions
from arlarena.environments.webshop.generated.phrases import Phrases
from arlarena.environments.webshop.generated.words import load_words
from arlarena.environments.webshop.shop.goal import NO_LIMIT, Goal
from arlarena.environments.webshop.shop.product import Product

TRAINING_GOALS = 1_000_000  # practically unlimited; contents may repeat after some ten thousand goals
SHARES: Mapping[str, int] = {"train": 6, "validation": 1, "test": 1}  # how many eighths of all contents each split has
EVALUATION = ("validation", "test")
MAX_DRAWS = 2_000  # maximum number of draws for a training goal; three of four draws belong to the training split
# Maximum number of passes over all products to find the goals of an evaluation split. One draw in eight belongs to the
# split.
MAX_PASSES = 64
# With fewer products per evaluation goal, there may be too few contents. Then the evaluation goals are drawn at the
# start, so that the error occurs at the start.
SCARCE = 16
PRICE_STEPS = [10.0 * step for step in range(1, 100)]
# How many of 100 goals have 1, 2, 3 attributes, and 0, 1, 2, 3 options.
ATTRIBUTE_WEIGHTS = (10, 45, 45)
OPTION_WEIGHTS = (10, 30, 40, 20)

Content = tuple[int, list[tuple[str, str]]]  # a product and the options to choose


class GeneratedGoals:
    """The goals of a catalogue. Thread-safe.

    `product`: a function that returns a product by its number, for numbers below `options.products`.

    Raises:
        CatalogueError: the options allow no catalogue, or too few goals.
    """

    def __init__(self, options: GeneratedOptions, product: Callable[[int], Product]) -> None:
        options.check()
        self._options, self._product = options, product
        self._phrases = Phrases(load_words(), plain=options.texts == "short")
        self._panels: dict[str, list[Content]] = {}
        if options.products < SCARCE * options.evaluation_goals:
            for split in EVALUATION:
                self._panel(split)

    def sizes(self) -> dict[str, int]:
        """Return the number of goals of each split."""
        return {name: self._options.evaluation_goals if name in EVALUATION else TRAINING_GOALS for name in SHARES}

    def goal(self, split: str, index: int) -> Goal:
        """Return a goal. The goals of an evaluation split have different contents.

        Raises:
            IndexError: the split has fewer goals.
        """
        size = self.sizes()[split]
        if not 0 <= index < size:
            raise IndexError(f"split {split!r} has {size} goals, so the index is at most {size - 1}, not {index}")
        random = self._seeded(split, index)
        number, options = self._panel(split)[index] if split in EVALUATION else self._training_content(random)
        return self._goal(random, number, options)

    def _seeded(self, *key: object) -> Random:
        return seeded("webshop-goal", self._options.product_key(), self._options.goal_attributes, *key)

    def _training_content(self, random: Random) -> Content:
        for _ in range(MAX_DRAWS):
            content = self._draw(random, random.randrange(self._options.products))
            if self._split(content) == "train":
                return content
        raise CatalogueError(f"no training goal in {MAX_DRAWS} draws; use more products or axes")

    def _panel(self, split: str) -> list[Content]:
        """Return the contents of an evaluation split. A product occurs twice only if there are too few products.

        Raises:
            CatalogueError: there are too few contents.
        """
        if split not in self._panels:
            self._panels[split] = self._draw_panel(split)
        return self._panels[split]

    def _draw_panel(self, split: str) -> list[Content]:
        random, wanted = self._seeded(split), self._options.evaluation_goals
        order = list(range(self._options.products))
        random.shuffle(order)
        found: dict[str, Content] = {}
        for _ in range(MAX_PASSES):
            for number in order:
                content = self._draw(random, number)
                if self._split(content) == split:
                    found.setdefault(self._key(content), content)
                if len(found) == wanted:
                    return list(found.values())
        raise CatalogueError(
            f"evaluation_goals = {wanted}: with these options there are only {len(found)} goals in the split {split}; "
            "use fewer evaluation_goals, or more products, axes or values"
        )

    def _key(self, content: Content) -> str:
        number, options = content
        return content_key(self._product(number).asin, options)

    def _split(self, content: Content) -> str:
        return split_of_digest(self._key(content), SHARES)

    def _draw(self, random: Random, number: int) -> Content:
        """Draw the options to choose for a product. They are in the order of the product's axes (kinds of options), so
        that equal contents have equal keys.
        """
        product = self._product(number)
        axes = list(product.options)
        most = min(len(axes), len(OPTION_WEIGHTS) - 1)
        count = random.choices(range(most + 1), OPTION_WEIGHTS[: most + 1])[0]
        drawn = sorted(random.sample(range(len(axes)), count))
        return number, [(axes[place], random.choice(product.options[axes[place]])) for place in drawn]

    def _goal(self, random: Random, number: int, options: list[tuple[str, str]]) -> Goal:
        product = self._product(number)
        most = min(self._options.goal_attributes, len(ATTRIBUTE_WEIGHTS), len(product.attributes))
        count = random.choices(range(1, most + 1), ATTRIBUTE_WEIGHTS[:most])[0]
        attributes = random.sample(product.attributes, count)
        limit = price_limit(random, product.price)
        text = self._phrases.instruction(random, product.query, attributes, options)
        if limit < NO_LIMIT:
            text += f", and price lower than {limit:.2f} dollars"
        return Goal(number, text, attributes, list(options), limit)


def content_key(asin: str, options: list[tuple[str, str]]) -> str:
    """Return the key of a goal's content: 32 hex digits. Equal contents have equal keys."""
    return digest(json.dumps([asin, options]))


def price_limit(random: Random, price: float) -> float:
    """Draw the price limit of a goal in dollars. As in WebShop's code, the limit is the larger of two multiples of ten
    dollars, drawn from the next four multiples above the price.
    """
    steps = [step for step in PRICE_STEPS if step > price][:4]
    return max(random.sample(steps, 2)) if len(steps) >= 2 else NO_LIMIT
