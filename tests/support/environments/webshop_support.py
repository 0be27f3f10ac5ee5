"""A small catalogue in memory: ordinary products, products with unusual texts, and goals."""

from __future__ import annotations

import itertools
import re

import msgspec

from arlarena.environments.webshop.options import WebShopOptions
from arlarena.environments.webshop.shop.goal import Goal
from arlarena.environments.webshop.shop.product import Product
from arlarena.proto.env_api import DataSource

KINDS = ("beauty", "electronics", "fashion", "garden", "grocery")
THINGS = ("lotion", "cable", "jacket", "lamp", "coffee", "brush", "speaker", "boots", "chair", "tea", "soap", "charger")
TRAITS = ("long lasting", "easy to use", "sugar free", "water resistant", "hand made")
COLOURS = ("black", "light blue", "red", "off white")
SIZES = ("small", "large", "10.5 | 11", '14"')


class MemoryCatalogue:
    """A `Catalogue` in memory. Its search sorts products by the number of words that they share with the query."""

    version = "memory-1"

    def __init__(self, products, goals):
        """`goals`: name of the split → goals."""
        self.products, self.goals = list(products), goals
        self._words = [_words(product) for product in self.products]

    def __len__(self):
        return len(self.products)

    def product(self, number):
        return self.products[number]

    listing = product  # a product has all fields of a listing

    def number(self, asin):
        return next((number for number, product in enumerate(self.products) if product.asin == asin), None)

    def search(self, text):
        query = set(re.findall(r"\w+", text.lower()))
        hits = [(-len(query & words), number) for number, words in enumerate(self._words) if query & words]
        return [number for _, number in sorted(hits)[:50]]

    def sizes(self):
        return {split: len(goals) for split, goals in self.goals.items()}

    def goal(self, split, index):
        return self.goals[split][index]

    def source(self):
        return DataSource("made by a test", False)


def product(number, **changes):
    """Return an ordinary product. `number` determines its fields and its asin A0000000NN. `changes`: other fields."""
    thing, trait = THINGS[number % len(THINGS)], TRAITS[number % len(TRAITS)]
    colour = COLOURS[number % len(COLOURS)]
    made = Product(
        asin=f"A{number:09d}",
        title=f"Maker{number} {trait.title()} {thing.title()} for Home",
        description=f"A {thing} for the home. It is {trait}.",
        bullets=[f"{trait} {thing}", f"model {number}"],
        price=5.0 + number,
        price_text=f"${5.0 + number}",
        options={"color": list(COLOURS[: 2 + number % 3]), "size": list(SIZES[: 1 + number % 4])},
        attributes=[trait, f"{thing} for home"],
        category=KINDS[number % len(KINDS)],
        query=f"{thing}s",
        product_category=f"Home › {thing.title()}s › {colour.title()}",
        nouns=[f"maker{number}", thing, "home"],
    )
    return msgspec.structs.replace(made, **changes)


def odd_products():
    """Return products with texts that need care in HTML or JSON."""
    odd = [
        {"title": "", "description": "", "bullets": []},
        {"title": " ", "description": " \t", "bullets": ["", " ", "\n", "a\nb"]},
        {"title": "\n", "description": "\r\n", "bullets": ["\u00a0", "  two  spaces  "]},
        {"title": " <b>Bold</b> & \"quoted\" 'title' ", "description": "</p><script>x</script> &amp; &#39;"},
        {"title": "Größe Ünïcode ☕ 茶", "options": {"größe": ["groß", "klein ☕"], "Color": ["weiß"]}},
        {"options": {"color": ["red", "blue"], "trim": ["red", "green"]}},
        {"options": {"a": ["description", "features", "attributes", "search", "next >"], "b": ["buy now", "< prev"]}},
        {"options": {"size": ['14"', "5'", "a\\b", "<10>", "x & y", "it's", "color", "size"]}},
        {"options": {"": ["a", ""], " ": ["b]c", "d [e]", "f[g"], "\n": ["h\ni"], "</h4>": [" padded "]}},
        {"options": {"pack": ["back to search", ", ", ": "]}, "price_text": "$1.0 to $2.5"},
        {"category": "", "query": " ", "product_category": "A › <B>", "attributes": ["", " ", "x<y"]},
        {"title": "a [SEP] b", "bullets": ["You have clicked red.\n", "[button] x [button_]"], "options": {}},
    ]
    return [product(100 + number, **changes) for number, changes in enumerate(odd)]


def goals_of(products, first=0):
    """Return a goal for each combination of options of each product. `first`: number of the first product."""
    return [
        Goal(
            product=first + number,
            instruction=f"i want {one.attributes[0]} {one.query} <{values}> & more, and price lower than 90.00 dollars",
            attributes=one.attributes[:1],
            options=[tuple(pair) for pair in zip(sorted(one.options), values, strict=True)],
            price_upper=90.0,
        )
        for number, one in enumerate(products)
        for values in itertools.product(*(one.options[name] for name in sorted(one.options)))
    ]


def small_catalogue():
    """Return a catalogue of 60 ordinary products and `odd_products`. The goals ask for ordinary products."""
    ordinary = [product(number) for number in range(60)]
    goals = {
        "train": goals_of(ordinary[:40]),
        "validation": goals_of(ordinary[40:50], 40),
        "test": goals_of(ordinary[50:], 50),
    }
    return MemoryCatalogue([*ordinary, *odd_products()], goals)


def shop_environment(catalogue=None, **options):
    """Return the environment with a catalogue. Default: `small_catalogue`."""
    from arlarena.environments.webshop.environment import WebShopEnvironment

    return WebShopEnvironment(WebShopOptions(**options), catalogue or small_catalogue())


def _words(one):
    values = [value for values in one.options.values() for value in values]
    return set(re.findall(r"\w+", " ".join([one.asin, one.title, one.description, *one.bullets[:1], *values]).lower()))
