"""Clusters of texts that are nearly equal: the anchor `similar` of step groups."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher


def similar_groups(observations: Sequence[Sequence[str]], similarity: float) -> list[list[int]]:
    """Greedy clusters in reading order: a turn joins the first cluster whose first member is alike enough."""
    matchers: list[SequenceMatcher[str]] = []
    known: dict[str, int] = {}
    return [[_cluster(text, matchers, known, similarity) for text in turns] for turns in observations]


def _cluster(text: str, matchers: list[SequenceMatcher[str]], known: dict[str, int], similarity: float) -> int:
    if text in known:
        return known[text]
    for number, matcher in enumerate(matchers):
        matcher.set_seq1(text)
        # The first two are cheap upper bounds of the third.
        if (
            matcher.real_quick_ratio() >= similarity
            and matcher.quick_ratio() >= similarity
            and matcher.ratio() >= similarity
        ):
            known[text] = number
            return number
    # `autojunk` would ignore the letters of any text over 200 characters: in prose, nearly all of them.
    matchers.append(SequenceMatcher(None, "", text, autojunk=False))
    known[text] = len(matchers) - 1
    return known[text]
