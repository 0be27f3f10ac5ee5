"""What things are called: `Apple_bar__plus_01_dot_59…` is "apple 2".

The rule is ALFWorld's own. Of the things of a kind, the first by id has the highest number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

_BAR = "_bar_"


def names_of(ids: Iterable[str]) -> dict[str, str]:
    """The name of each id. What is not a thing in the room (a type, the agent) keeps its id, and a space after it."""
    ordered = sorted(set(ids))
    left = Counter(kind for one in ordered if (kind := kind_of(one)) is not None)
    names = {}
    for one in ordered:
        kind = kind_of(one)
        if kind is None:
            names[one] = f"{one} "
        else:
            names[one] = f"{kind} {left[kind]}"
            left[kind] -= 1
    return names


def kind_of(one: str) -> str | None:
    """`sink_bar_…_bar_sinkbasin` -> "sinkbasin"; None for what is not a thing in the room."""
    kind, bar, _ = one.partition(_BAR)
    if not bar:
        return None
    return f"{kind}basin" if "basin" in one else kind
