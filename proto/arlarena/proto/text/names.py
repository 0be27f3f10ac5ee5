"""Hints for error messages about unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(word: object, known: Iterable[str]) -> str:
    """Returns `did you mean 'step'?`, or "" if no name of `known` is similar to `word`."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def nearest(word: object, known: Iterable[str]) -> str:
    """Returns `did you mean 'step'?`, or all names in alphabetical order (`known: close, reset, step`) if no name of
    `known` is similar to `word`.
    """
    known = list(known)
    return suggestion(word, known) or f"known: {', '.join(sorted(known)) or 'none'}"


def known_names(word: object, known: Iterable[str]) -> str:
    """Returns all names in the order of `known`, and the most similar name: `known: step, reset; did you mean 'step'?`.

    Omits the question if no name is similar to `word`.
    """
    known = list(known)
    close = suggestion(word, known)
    return f"known: {', '.join(known) or 'none'}" + (f"; {close}" if close else "")
