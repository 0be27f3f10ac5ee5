"""Computes the score of a purchase in float64 from the rules, without the environment and without rapidfuzz."""

from __future__ import annotations

import re
from functools import cache


def words_of(text):
    """Return the words of a text by the rules of thefuzz: without the characters 128 to 255, in lower case."""
    kept = "".join(character for character in str(text) if not 128 <= ord(character) <= 255)
    return re.sub(r"\W", " ", kept).lower().split()


def common(a, b):
    """Return the length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = row
        row = [0]
        for j, y in enumerate(b):
            row.append(before[j] + 1 if x == y else max(before[j + 1], row[j]))
    return row[-1]


def ratio(a, b):
    """Return the similarity of two texts, 0 to 100."""
    return 200.0 * common(a, b) / (len(a) + len(b)) if a or b else 100.0


@cache
def similar(a, b):
    """Return whether the rounded token set ratio of two texts is above 85.

    This ratio is the best similarity of two of these texts: the shared words, all words of `a`, and all words of `b`.
    """
    left, right = set(words_of(a)), set(words_of(b))
    if not left or not right:
        return False
    both = " ".join(sorted(left & right))
    one, other = (" ".join([both, *sorted(rest)]).strip() for rest in (left - right, right - left))
    best = max(ratio(both, one), ratio(both, other), ratio(one, other)) if both else ratio(one, other)
    return round(best) > 85


def simplified(value, colours):
    """Return the first colour in `value` (a text or a tuple of texts). Without a colour, return `value`."""
    for colour in colours:
        if colour in value:
            return colour
    return value


def reference_score(goal, wanted, bought, chosen, colours):
    """Return the total score, and its parts with the names of the original."""
    paths = [{part.strip() for part in one.product_category.split("›")} for one in (wanted, bought)]
    title = 0.2
    if wanted.nouns:
        title = len({noun for noun in wanted.nouns if noun in bought.nouns}) / len(wanted.nouns)
    query, category = wanted.query == bought.query, len(paths[0] & paths[1]) > 1
    kind = 1.0 if query or category or title > 0.2 else 0.5
    kind = kind if title >= 0.1 else 0.1 if title > 0 else 0.0
    attributes = 0
    for attribute in goal.attributes:
        listed = any(similar(having, attribute) for having in bought.attributes)
        texts = [bought.title, " ".join(bought.bullets), bought.description]
        attributes += listed or any(attribute in text.lower() for text in texts)
    options = sum(
        any(similar(simplified(value, colours), simplified(option, colours)) for value in chosen)
        for option in goal.options
    )
    cheap, count = bought.price <= goal.price_upper, len(goal.attributes) + len(goal.options) + 1
    parts = {
        "r_type": kind,
        "r_att": attributes / len(goal.attributes),
        "w_att": len(goal.attributes) / count,
        "query_match": query,
        "category_match": category,
        "title_score": title,
        "r_price": cheap,
        "w_price": 1 / count,
    }
    if goal.options:
        parts |= {"r_option": options / len(goal.options), "w_option": len(goal.options) / count}
    return (attributes + options + cheap) / count * kind, parts
