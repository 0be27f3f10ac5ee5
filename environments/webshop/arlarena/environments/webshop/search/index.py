"""A memory-mapped index that finds the 50 best documents for a query. The score of a document is BM25, as in Lucene but
with exact document lengths:

    score(d, q) = sum over the terms t of q (a repeated term counts each time) of
                  ln(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * length / mean length))

    N: number of documents; df: number of documents with t; tf: how often d has t; length: number of terms of d

The contribution of a term to a document's score is the term's *impact*. Impacts are stored in float32. A search adds
the impacts of rare terms first. As soon as the 50th best sum exceeds the upper bound of the remaining impacts, the
search completes only the sums of documents that can still be among the 50 best (Turtle and Flood, 1995: MaxScore). This
shortcut does not change the result.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arlarena.environments.webshop.catalogue.tables import SortedTexts, open_array
from arlarena.environments.webshop.search.analyzer import terms

K1, B = 0.9, 0.4  # pyserini's defaults, which WebShop uses
TOP = 50  # WebShop's SEARCH_RETURN_N
SLACK = 1.0 - 1e-5  # margin for the rounding of float32 sums, used before documents are left out
COMMON = 8  # a term in more than an eighth of the documents has a row with its impact on each document
# How many entries of a posting list can be added in the time of one binary search in the list (measured).
SEARCH_COST = 10
CHECKED = 16  # the 50th best sum is computed only before a term that is in more than a sixteenth of the documents

Floats = NDArray[np.float32]
Integers = NDArray[np.signedinteger[Any]]


class Index:
    """An index in a folder. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Open an index.

        Raises:
            CatalogueError: a file is missing or damaged.
        """
        self._terms = SortedTexts(folder, "terms")
        self._starts = open_array(folder, "posting_starts", np.int64)
        self._documents = open_array(folder, "posting_documents", np.int32)
        self._impacts = open_array(folder, "posting_impacts", np.float32)
        self._frequencies = open_array(folder, "term_documents", np.int32)
        self._highest = open_array(folder, "term_highest", np.float32)
        self._fiftieth = open_array(folder, "term_fiftieth", np.float32)
        self._rows = open_array(folder, "row_numbers", np.int32)
        self._common = open_array(folder, "rows", np.float32, dimensions=2)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return int(self._common.shape[1])

    def search(self, text: str) -> list[int]:
        """Return the numbers of the 50 best documents, best first. Documents with equal scores are in ascending order
        of their numbers. Return fewer numbers if fewer documents have a term of the text.
        """
        counts = Counter(terms(text))
        query = [(number, count) for word, count in counts.items() if (number := self._terms.find(word)) is not None]
        if not query:
            return []
        query.sort(key=lambda item: (self._frequencies[item[0]], item[0]))
        numbers = [number for number, _ in query]
        weights = np.array([count for _, count in query], np.float32)
        limits = self._highest[numbers] * weights
        # remaining[i]: upper bound of the impacts of term i and all later terms. bound: a lower bound of the 50th best
        # final score; at first, the 50th best score of a single term.
        remaining = np.append(np.cumsum(limits[::-1])[::-1], np.float32(0.0))
        bound = float((self._fiftieth[numbers] * weights).max()) * SLACK
        sums = np.zeros(self.documents, np.float32)
        done = len(query)
        for position, (number, weight) in enumerate(zip(numbers, weights, strict=True)):
            if position and self._frequencies[number] * CHECKED > self.documents:
                bound = max(bound, _fiftieth_best(sums, bound - float(remaining[position])))
                if bound > remaining[position]:
                    done = position
                    break
            self._add(number, weight, sums)
        least = max(bound - float(remaining[done]), 0.0) * SLACK
        candidates = np.flatnonzero(sums >= least if least else sums)
        for position in range(done, len(query)):
            self._complete(numbers[position], weights[position], sums, candidates)
            bound = max(bound, _best(sums[candidates], TOP) * SLACK)
            candidates = candidates[sums[candidates] >= bound - float(remaining[position + 1])]
        return _ranked(candidates, sums[candidates])

    def _posting(self, number: int) -> tuple[Integers, Floats]:
        part = slice(self._starts[number], self._starts[number + 1])
        return self._documents[part], self._impacts[part]

    def _add(self, number: int, weight: np.float32, sums: Floats) -> None:
        """Add a term's impacts to the sums of all documents [N]."""
        row = self._rows[number]
        if row >= 0:
            impacts = self._common[row]
            sums += impacts if weight == 1.0 else impacts * weight
        else:
            documents, impacts = self._posting(number)
            sums[documents] += impacts if weight == 1.0 else impacts * weight

    def _complete(self, number: int, weight: np.float32, sums: Floats, candidates: Integers) -> None:
        """Add a term's impacts to the sums of the candidates. Afterwards, the sums of other documents are invalid."""
        row = self._rows[number]
        if row >= 0:
            sums[candidates] += self._common[row][candidates] * weight
            return
        if len(candidates) * SEARCH_COST > self._frequencies[number]:
            self._add(number, weight, sums)
            return
        documents, impacts = self._posting(number)
        places = np.searchsorted(documents, candidates.astype(np.int32))
        places[places == len(documents)] = 0
        has_term = documents[places] == candidates
        sums[candidates[has_term]] += impacts[places[has_term]] * weight


def _best(scores: Floats, rank: int) -> float:
    """Return the score at a rank; rank 1 is the highest score. Return 0 if there are fewer than `rank` scores."""
    if len(scores) < rank:
        return 0.0
    return float(np.partition(scores, len(scores) - rank)[len(scores) - rank])


def _fiftieth_best(sums: Floats, at_least: float) -> float:
    """Return a lower bound of the 50th best sum. Sums up to `at_least` are ignored, because they cannot change the
    caller's decision.
    """
    return _best(sums[sums > max(at_least, 0.0)], TOP) * SLACK


def _ranked(documents: Integers, scores: Floats) -> list[int]:
    """Return the 50 best documents, best first. `documents`: numbers of documents in ascending order. `scores`: their
    scores.
    """
    worst = _best(scores, TOP)
    kept = scores >= worst
    documents, scores = documents[kept], scores[kept]
    return [int(number) for number in documents[np.argsort(-scores, kind="stable")[:TOP]]]
