"""Colour names of options."""

from __future__ import annotations

# The colours in WebShop's code, in the same order. Before values are compared, the first colour that occurs in a value
# replaces the value.
COLOURS = (
    "alabaster", "apricot", "aqua", "ash", "asphalt", "azure", "banana", "beige", "black", "blue", "blush", "bordeaux",
    "bronze", "brown", "burgundy", "camel", "camo", "caramel", "champagne", "charcoal", "cheetah", "chestnut",
    "chocolate", "christmas", "coffee", "cognac", "copper", "coral", "cranberry", "cream", "crystal", "dark", "denim",
    "eggplant", "elephant", "espresso", "fuchsia", "gold", "granite", "grape", "graphite", "grass", "gray", "green",
    "grey", "heather", "indigo", "ivory", "ivy", "khaki", "lavender", "lemon", "leopard", "light", "lilac", "lime",
    "magenta", "maroon", "mauve", "merlot", "midnight", "mint", "mocha", "multicolor", "mushroom", "mustard", "natural",
    "navy", "nude", "olive", "orange", "peach", "pewter", "pink", "plum", "purple", "rainbow", "red", "rose", "royal",
    "rust", "sand", "sapphire", "seashell", "silver", "skull", "slate", "steel", "stone", "stonewash", "sunflower",
    "tan", "taupe", "teal", "tiger", "turquoise", "violet", "walnut", "wheat", "white", "wine", "yellow",
)  # fmt: skip


def first_colour(value: str) -> str:
    """Return the first of `COLOURS` that `value` contains, such as "tan" for "titanium". If none, return `value`."""
    return next((colour for colour in COLOURS if colour in value), value)


def first_colour_of_pair(name: str, value: str) -> str:
    """Return the first of `COLOURS` that equals `name` or `value`. If none, return the pair as Python prints a tuple.

    WebShop's code passes the pairs (name, value) of a synthetic goal to a function that was written for texts. There,
    `colour in pair` is true only if the colour equals the name or the value. If no colour equals one of them, the
    following comparison uses `str(pair)`. This function gives the same results.
    """
    return next((colour for colour in COLOURS if colour in (name, value)), str((name, value)))
