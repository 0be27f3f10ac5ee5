"""Names of things. For example, the thing with the id `Apple_bar__plus_01_dot_59…` has the name "apple 2".

As in ALFWorld, the things of a kind are numbered in descending order of their ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

_BAR = "_bar_"


def names_of(ids: Iterable[str]) -> dict[str, str]:
    """Return the name of each id. The name of a type or of the agent is the id itself, followed by a space."""
    ordered = sorted(set(ids))
    left = Counter(kind for entity in ordered if (kind := kind_of(entity)) is not None)
    names = {}
    for entity in ordered:
        kind = kind_of(entity)
        if kind is None:
            names[entity] = f"{entity} "
        else:
            names[entity] = f"{kind} {left[kind]}"
            left[kind] -= 1
    return names


def kind_of(entity: str) -> str | None:
    """Return the kind of a thing from the thing's id: "sinkbasin" for `sink_bar_…_bar_sinkbasin`. Return None for an id
    without `_bar_`.
    """
    kind, bar, _ = entity.partition(_BAR)
    if not bar:
        return None
    return f"{kind}basin" if "basin" in entity else kind
