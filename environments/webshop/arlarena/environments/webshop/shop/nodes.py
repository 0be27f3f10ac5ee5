"""Text nodes of pages, and the two forms of an observation.

WebShop's code ("the original") renders a page as HTML, parses the HTML, and converts its text nodes. Here, a page is a
list of nodes, without HTML. The rules of the original's parser are applied to each text:

- An empty text has no node.
- A text that has only ASCII white space has no node if it has a line end. Otherwise, its node is a single space.

In the form `text`, the nodes without surrounding white space are joined by " [SEP] ". In the form `rich`, each node is
a line, and buttons, options and links are marked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

Form = Literal["text", "rich"]
NodeKind = Literal["text", "button", "option", "link"]
Node = tuple[NodeKind, str]

SEPARATOR = " [SEP] "
_ASCII_SPACE = " \n\t\f\r"


def nodes(kind: NodeKind, *texts: str) -> list[Node]:
    """Return a node (kind, text) for each text. The module's docstring states which texts have no node."""
    return [
        (kind, text if filled else " ")
        for text in texts
        if (filled := text.strip(_ASCII_SPACE)) or (text and "\n" not in text)
    ]


def fragment(form: Form, parts: Iterable[Node], clicked: Collection[str] = ()) -> str:
    """Return the text of consecutive nodes. Each node ends with a separator, so that fragments can be joined.

    `clicked`: the options and links that the form `rich` marks as clicked.
    """
    if form == "text":
        return "".join([f"{text.strip()}{SEPARATOR}" for _, text in parts])
    return "".join([_rich(kind, text, text in clicked) for kind, text in parts])


def finished(form: Form, text: str) -> str:
    """Remove the separator after the last node of a page. The form `rich` has no such separator."""
    return text.removesuffix(SEPARATOR) if form == "text" else text


def _rich(kind: NodeKind, text: str, clicked: bool) -> str:
    if kind == "text":
        return f"{text}\n"
    before = {"button": "", "option": "  ", "link": "\n"}[kind]
    mark = "clicked button" if clicked and kind != "button" else "button"
    return f"{before}[{mark}] {text} [{mark}_]\n"
