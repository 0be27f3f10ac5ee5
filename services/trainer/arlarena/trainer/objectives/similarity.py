"""Clusters texts that are nearly equal. GiGPO with the anchor `similar` compares turns in the same cluster."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher


def cluster_numbers(observations: Sequence[Sequence[str]], similarity: float) -> list[list[int]]:
    """Return the cluster number of each turn's observation.

    Turns are processed in order. The observation of a turn is compared with the first observation of each cluster. The
    turn joins the first cluster with a similarity of at least `similarity` (0 to 1). If no cluster is similar enough,
    the turn starts a new cluster.
    """
    matchers: list[SequenceMatcher[str]] = []
    known: dict[str, int] = {}
    return [[_cluster(text, matchers, known, similarity) for text in turns] for turns in observations]


def _cluster(text: str, matchers: list[SequenceMatcher[str]], known: dict[str, int], similarity: float) -> int:
    if text in known:
        return known[text]
    for number, matcher in enumerate(matchers):
        matcher.set_seq1(text)
        # `real_quick_ratio` and `quick_ratio` are upper bounds of `ratio`, and are faster to compute.
        if (
            matcher.real_quick_ratio() >= similarity
            and matcher.quick_ratio() >= similarity
            and matcher.ratio() >= similarity
        ):
            known[text] = number
            return number
    # `autojunk` would ignore all frequent characters in texts of 200 or more characters.
    matchers.append(SequenceMatcher(None, "", text, autojunk=False))
    known[text] = len(matchers) - 1
    return known[text]
