"""Actions: `search[words]` and `click[name]`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import msgspec


class ShopAction(msgspec.Struct, frozen=True, gc=False):
    """A search for the words `argument`, or a click on the clickable named `argument`. `argument` is in lower case."""

    kind: Literal["search", "click"]
    argument: str


def parse_action(text: str) -> ShopAction | None:
    r"""Return the action at the start of a text. Return None if there is no action.

    The rule is `re.match(r"(.+)\[(.+)\]", text)` in WebShop's code: the argument ends at the last `]` of the first
    line, and begins after the last `[` that leaves at least one character for the argument. The name must be exactly
    `search` or `click`. White space around the argument is a part of the argument. The time of this function is linear
    in the length of the text. The time of the regular expression is quadratic if there are many `[`.
    """
    line = text.partition("\n")[0]
    end = line.rfind("]")
    start = line.rfind("[", 1, end - 1) if end > 1 else -1
    if start < 1:
        return None
    name = line[:start]
    argument = line[start + 1 : end].lower()
    if name == "search":
        return ShopAction("search", argument)
    return ShopAction("click", argument) if name == "click" else None


def click(name: str) -> str:
    """Return the text of a click."""
    return f"click[{name}]"


def search(words: str) -> str:
    """Return the text of a search. Brackets and line ends become spaces, because an action cannot contain them."""
    return f"search[{words.translate(_NO_BRACKETS)}]"


def is_clickable(name: str) -> bool:
    """Return whether an action can name this clickable. An empty name and a name with `[` cannot be written."""
    if name and "[" not in name and "\n" not in name:  # the usual case, without parsing
        return name == name.lower()
    return parse_action(click(name)) == ShopAction("click", name)


def clicks_on(names: Collection[str]) -> list[str]:
    """Return the clicks on all clickables that an action can name, in the same order."""
    text = "".join(names)  # one check of this text replaces a check of each name, because almost all names pass
    if "[" in text or "\n" in text or text != text.lower() or "" in names:
        names = [name for name in names if is_clickable(name)]
    return [click(name) for name in names]


_NO_BRACKETS = str.maketrans({"[": " ", "]": " ", "\n": " "})
