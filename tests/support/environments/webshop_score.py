"""The score of a purchase in float64, written from the rules, independently of the environment and of rapidfuzz."""

from __future__ import annotations

import re
from functools import cache


def words_of(text):
    """The words of a text as thefuzz sees them: characters 128 to 255 removed, lower case."""
    kept = "".join(character for character in str(text) if not 128 <= ord(character) <= 255)
    return re.sub(r"\W", " ", kept).lower().split()


def common(a, b):
    """The length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = row
        row = [0]
        for j, y in enumerate(b):
            row.append(before[j] + 1 if x == y else max(before[j + 1], row[j]))
    return row[-1]


def ratio(a, b):
    """The similarity of two texts, 0 to 100."""
    return 200.0 * common(a, b) / (len(a) + len(b)) if a or b else 100.0


@cache
def similar(a, b):
    """Whether the token set ratio, rounded, is above 85: the best ratio among the shared words alone, and these with
    the other words of either side.
    """
    left, right = set(words_of(a)), set(words_of(b))
    if not left or not right:
        return False
    both = " ".join(sorted(left & right))
    one, other = (" ".join([both, *sorted(rest)]).strip() for rest in (left - right, right - left))
    best = max(ratio(both, one), ratio(both, other), ratio(one, other)) if both else ratio(one, other)
    return round(best) > 85


def simplified(value, colours):
    """The first colour that is contained in a text, or equal to an element of a tuple."""
    for colour in colours:
        if colour in value:
            return colour
    return value


def reference_score(goal, wanted, bought, chosen, colours):
    """The total and the parts by the names of the original."""
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
