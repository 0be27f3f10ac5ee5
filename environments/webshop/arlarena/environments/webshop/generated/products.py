"""The products of the generated catalogue.

Products come in families of `FAMILY` near-duplicates, whose texts have the same form. Each other member of a family
differs from the first member in one thing: an attribute, a value of an option, the price, or the type. The other type
is a neighbour: it belongs to the same group of types. Half of the other members also have another brand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from arlarena.environment.hashing import digest, seeded
from arlarena.environments.webshop.generated.options import GeneratedOptions
from arlarena.environments.webshop.generated.texts import Looks, describe, draw_looks
from arlarena.environments.webshop.generated.words import ProductType, Words, load_words, neighbours
from arlarena.environments.webshop.shop.product import Product

GENERATOR_VERSION = "1"  # change it if a change of the code changes a product or a goal
FAMILY = 6  # number of products in a family
RANGE_SHARE = 0.2  # share of products with a range of prices
ATTRIBUTES = {"full": (3, 5), "short": (2, 3)}  # minimum and maximum number of attributes of a product, by `texts`
# The price of a dearer near-duplicate is higher by a factor in this range. So it is mostly above the price limits of
# goals for the first member of the family.
DEARER = (1.7, 2.6)
ASIN_CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SHORT_ID_STEP = 7919  # a prime, so that short ids are different, and do not follow the order of products


@dataclass(frozen=True, slots=True)
class ProductDraft:
    """A product without its texts. `price`: the lowest and the highest price in dollars. If the product has one price,
    both are equal.
    """

    kind: ProductType
    brand: str
    attributes: tuple[str, ...]
    options: dict[str, list[str]]
    price: tuple[float, float]


def types_of(options: GeneratedOptions, words: Words) -> list[ProductType]:
    """Return at most `options.types` types of each category, or all types if this option is None."""
    found: list[ProductType] = []
    for category in dict.fromkeys(kind.category for kind in words.types):
        listed = [kind for kind in words.types if kind.category == category]
        wanted = len(listed) if options.types is None else min(options.types, len(listed))
        found += [listed[position * len(listed) // wanted] for position in range(wanted)]
    return found


def make_products(options: GeneratedOptions) -> list[Product]:
    """Return all products. They depend only on the options. 10,000 products take about a second.

    Raises:
        CatalogueError: the options allow no catalogue.
    """
    options.check()
    order = list(range(options.products))
    seeded("webshop-order", options.product_key()).shuffle(order)
    products: list[Product | None] = [None] * options.products
    for position, (draft, looks) in enumerate(_drafts(options)):
        number = order[position]
        products[number] = _product(draft, looks, _asin(options, number), options)
    return [product for product in products if product is not None]


def _drafts(options: GeneratedOptions) -> Iterator[tuple[ProductDraft, Looks]]:
    """Yield as many drafts as there are products, family by family."""
    words = load_words()
    types = types_of(options, words)
    near = neighbours(types)
    left = options.products
    for family in range(-(-left // FAMILY)):
        random = seeded("webshop-family", options.product_key(), family)
        kind = types[family % len(types)]
        first = _draw(random, kind, words, options)
        looks = draw_looks(random, words)
        members = [first, *(_vary(random, first, near[kind.query], place, words) for place in range(1, FAMILY))]
        for member in members[:left]:
            yield member, looks
        left -= FAMILY


def _draw(random: Random, kind: ProductType, words: Words, options: GeneratedOptions) -> ProductDraft:
    least, most = ATTRIBUTES[options.texts]
    attributes = random.sample(kind.attributes, random.randint(least, most))
    axes = list(kind.axes)[: options.axes]
    if len(axes) > 1 and random.random() < 0.3:
        axes.pop(random.randrange(len(axes)))
    chosen = {axis: _values(random, kind.axes[axis], options.values) for axis in axes}
    return ProductDraft(kind, random.choice(words.brands), tuple(attributes), chosen, _price(random, kind, options))


def _values(random: Random, values: tuple[str, ...], most: int) -> list[str]:
    """Draw 2 to 8 values of an axis, but at most `most` values. The values keep their order."""
    most = min(most, len(values), 8)
    count = random.randint(min(2, most), most)
    return [values[position] for position in sorted(random.sample(range(len(values)), count))]


def _price(random: Random, kind: ProductType, options: GeneratedOptions) -> tuple[float, float]:
    price = kind.lowest * (kind.highest / kind.lowest) ** random.random()
    if options.texts == "short":
        price = max(5.0, 5.0 * round(price / 5))
        return price, price
    price = round(price) + random.choice((-0.01, -0.01, -0.05, -0.5, 0.0, 0.49))
    return price, round(price * random.uniform(1.1, 1.6), 2) if random.random() < RANGE_SHARE else price


def _vary(random: Random, first: ProductDraft, near: list[ProductType], place: int, words: Words) -> ProductDraft:
    """Return a near-duplicate of `first`. `place`: its position in the family, from 1, because `first` has position 0.

    The members 1 and 2 differ in an attribute, 3 in an option, 4 in the price, and 5 in the type. If there is no option
    or no other type, an attribute differs instead. Half of the near-duplicates have another brand.
    """
    draft = replace(first, brand=random.choice(words.brands)) if random.random() < 0.5 else first
    if place == 3 and first.options:
        return replace(draft, options=_other_value(random, first))
    if place == 4:
        factor = random.uniform(*DEARER)
        low, high = (_raised(price, factor) for price in first.price)
        return replace(draft, price=(low, high))
    if place == 5 and near:
        return replace(draft, kind=random.choice(near))
    attributes = list(first.attributes)
    others = [attribute for attribute in first.kind.attributes if attribute not in attributes]
    attributes[random.randrange(len(attributes))] = random.choice(others)
    return replace(draft, attributes=tuple(attributes))


def _other_value(random: Random, first: ProductDraft) -> dict[str, list[str]]:
    """Return the options with one value replaced by another value of its axis. If the axis has no other value, the
    value is removed. A single value is not removed.
    """
    axis = random.choice(list(first.options))
    values, listed = first.options[axis], first.kind.axes[axis]
    lost = random.choice(values)
    kept = {value for value in values if value != lost}
    others = [value for value in listed if value not in values]
    if others:
        kept.add(random.choice(others))
    return {**first.options, axis: [value for value in listed if value in kept] or values}


def _raised(price: float, factor: float) -> float:
    """Return a price that is higher by about `factor`. The difference is a multiple of five dollars, so that the cents
    do not change.
    """
    return price + 5.0 * max(1, round(price * (factor - 1) / 5))


def _asin(options: GeneratedOptions, number: int) -> str:
    """Return the id of a product: ten characters as at Amazon, or for short texts two parts of three characters."""
    if options.texts == "short":
        parts = options.id_parts
        code = (number + 1) * SHORT_ID_STEP % parts**2
        return f"b{code // parts:02d}x{code % parts:02d}"
    value, characters = int(digest(f"webshop-asin/{options.product_key()}/{number}"), 16), []
    for _ in range(8):
        value, place = divmod(value, len(ASIN_CHARACTERS))
        characters.append(ASIN_CHARACTERS[place])
    return "B0" + "".join(characters)


def _product(draft: ProductDraft, looks: Looks, asin: str, options: GeneratedOptions) -> Product:
    low, high = (round(price, 2) for price in draft.price)
    texts = describe(draft.kind, draft.brand, draft.attributes, draft.options, looks, options.texts)
    return Product(
        asin=asin,
        title=texts.title,
        description=texts.description,
        bullets=texts.bullets,
        price=low if low == high else seeded("webshop-price", asin).uniform(low, high),
        price_text=f"${low}" if low == high else f"${low} to ${high}",
        options=draft.options,
        attributes=list(draft.attributes),
        category=draft.kind.category,
        query=draft.kind.query,
        product_category=draft.kind.path,
        nouns=texts.nouns,
    )
