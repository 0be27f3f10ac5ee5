"""Frequent parts of observations, goals and actions: the tokens of a tiny policy."""

from __future__ import annotations

from collections.abc import Iterator

from arlarena.environments.webshop.expert import THOUGHTS
from arlarena.environments.webshop.generated.options import GeneratedOptions
from arlarena.environments.webshop.generated.phrases import CLAUSES, OPENINGS, PLAIN_OPENINGS, SENTENCES
from arlarena.environments.webshop.generated.products import types_of
from arlarena.environments.webshop.generated.words import ProductType, load_words

# Parts of pages and actions, with their spaces and line ends.
PAGE_PIECES = (
    " [SEP] ", "WebShop", "Instruction:", "Back to Search", "< Prev", "Next >", "Search", "Page ", " (Total results: ",
    "Price: $", "Rating: N.A.", "Description", "Features", "Reviews", "Attributes", "Buy Now", "$", ".0", ")",
    "Thank you for shopping with us!", "search[", "click[", "]", "]\nclick[", "search[<your query>]", "back to search",
    "< prev", "next >", "description", "features", "reviews", "buy now",
    "[button] ", "\n[button] ", "  [button] ", " [button_]\n", "[clicked button] ", "\n[clicked button] ",
    "  [clicked button] ", " [clicked button_]\n", "You have clicked ", ".\n", "\n", "\nclick[",
    ", and price lower than ", "0.00 dollars", ".00 dollars", ".99", ".95", ".5", ".49", ",",
)  # fmt: skip
LARGEST_NUMBER = 995  # price limits are below 1,000 dollars
# By `texts`: all numbers below this limit are pieces. Of the larger numbers, only every fifth is a piece, because short
# texts have prices in steps of five dollars.
COUNTED = {"full": 100, "short": 15}


def vocabulary(options: GeneratedOptions) -> tuple[str, ...]:
    """Return the pieces for the products and goals of these options. Each phrase is included twice: without and with a
    space in front.
    """
    types = types_of(options, load_words())
    found = _short_phrases(types) if options.texts == "short" else _words(types)
    counted = COUNTED[options.texts]
    numbers = [*range(counted), *range(counted, LARGEST_NUMBER + 1, 5)]
    phrases = [*found, *map(str, numbers)]
    spaced = (piece for phrase in phrases for piece in (phrase, f" {phrase}"))
    parts = options.id_parts if options.texts == "short" else 0
    ids = [f"{letter}{number:02d}" for letter in "bx" for number in range(parts)]
    return tuple(dict.fromkeys((*PAGE_PIECES, *THOUGHTS, *spaced, *ids)))


def _short_phrases(types: list[ProductType]) -> Iterator[str]:
    """Yield the complete names, attributes, axes and values. Then yield their single words, because a search may have
    only some of them.
    """
    phrases = list(_phrases(types))
    yield from phrases
    yield from (opening.removesuffix(" {thing}") for opening in PLAIN_OPENINGS)
    yield from (word for phrase in phrases for word in phrase.split())


def _words(types: list[ProductType]) -> Iterator[str]:
    """Yield the words of titles and goals, in lower case and as titles write them."""
    words = load_words()
    texts = [*_phrases(types), *words.fillers, *(text.replace("{", " ").replace("}", " ") for text in _FORMS)]
    for kind in types:
        texts += [*kind.aliases, *kind.uses]
        texts += [phrase for name in kind.attributes for phrase in words.attributes[name].paraphrases]
    for word in dict.fromkeys(word.strip(",.;") for text in texts for word in text.split()):
        yield word.lower()
        yield word.title()


def _phrases(types: list[ProductType]) -> Iterator[str]:
    for kind in types:
        yield kind.name.lower()
        yield from kind.attributes
        for axis, values in kind.axes.items():
            yield axis
            yield from values


_FORMS = (*OPENINGS, *CLAUSES, *SENTENCES)
