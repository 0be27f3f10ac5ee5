"""Products of a catalogue."""

from __future__ import annotations

import msgspec


class Listing(msgspec.Struct, frozen=True, gc=False):
    """The fields of a product that a page of results shows. See `Product`."""

    asin: str
    title: str
    price_text: str


class Product(msgspec.Struct, frozen=True):
    """A product as the shop sells it.

    Attributes:
        asin: the product's id.
        title: the name, as in the file.
        description: the full description.
        bullets: the list of features.
        price: price of a purchase in dollars. If the file has a range, one price in the range is drawn per product.
        price_text: the price as pages show it, such as "$12.98" or "$10.0 to $14.5".
        options: the values of each option by its name. Names and values are in lower case.
        attributes: the attributes for the score of a purchase.
        category: the product's category.
        query: the search query by which the product was collected.
        product_category: the path of categories, such as "Beauty › Hair Care › Shampoo".
        image: URL of an image, or "".
        option_images: URL of an image by option value.
        nouns: the nouns of the title in lower case, in order, with repetitions.
    """

    asin: str
    title: str
    description: str
    bullets: list[str]
    price: float
    price_text: str
    options: dict[str, list[str]]
    attributes: list[str]
    category: str
    query: str
    product_category: str
    image: str = ""
    option_images: dict[str, str] = {}
    nouns: list[str] = []
