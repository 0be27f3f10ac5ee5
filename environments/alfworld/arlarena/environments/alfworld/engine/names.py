"""Names of things: `Apple_bar__plus_01_dot_59…` is "apple 2".

As in ALFWorld, the things of one kind are numbered in descending order of their ids: the first id has the highest
number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

_BAR = "_bar_"


def names_of(ids: Iterable[str]) -> dict[str, str]:
    """Return the name of each id. The name of a type or of the agent is the id itself, followed by a space."""
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
    """Return the kind of a thing: "sinkbasin" for `sink_bar_…_bar_sinkbasin`. None if the id is not that of a thing."""
    kind, bar, _ = one.partition(_BAR)
    if not bar:
        return None
    return f"{kind}basin" if "basin" in one else kind
