"""Builds the index in bounded memory: postings are collected in segments on disk, and then the segments are merged.

A *posting* is a pair of a term and a document that has the term. The *impact* of a posting is the term's contribution
to the document's score (see `index`).
"""

from __future__ import annotations

import shutil
from array import array
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arlarena.environments.webshop.catalogue.tables import create_array, write_array, write_sorted_texts
from arlarena.environments.webshop.search.analyzer import term, words
from arlarena.environments.webshop.search.index import COMMON, K1, TOP, B

SEGMENT_TOKENS = 4_000_000  # tokens of a segment; sorting a segment takes about 150 MB
BLOCK_POSTINGS = 4_000_000  # number of postings in a block; the impacts of a block are computed together
MAX_CACHED_WORDS = 2_000_000  # maximum number of words whose terms are cached, about 0.3 GB
MAX_FREQUENCY = 65535  # maximum frequency of a term in a document; a higher frequency counts as this number

Integers = NDArray[np.signedinteger[Any]]


class _Vocabulary(dict[str, int]):
    """Maps each word to the number of its term; -1 if the word has no term. New words are added at their first use."""

    def __init__(self) -> None:
        self.terms: dict[str, int] = {}

    def __missing__(self, word: str) -> int:
        found = term(word)
        number = -1 if found is None else self.terms.setdefault(found, len(self.terms))
        if len(self) >= MAX_CACHED_WORDS:
            self.clear()
        self[word] = number
        return number


class _Segment(NamedTuple):
    """Postings, sorted by term and then by document. `terms`, `counts`: the numbers of the terms, and how many postings
    each term has. `documents`, `frequencies`: the document of each posting, and how often it has the term.
    """

    terms: Integers
    counts: Integers
    documents: Integers
    frequencies: NDArray[np.uint16]


class IndexBuilder:
    """Writes the index of a series of documents into a folder.

    builder = IndexBuilder(folder)
    builder.add("red running shoes")
    builder.finish()
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._work = folder / "segments"
        self._work.mkdir()
        self._vocabulary = _Vocabulary()
        self._tokens, self._ends = array("i"), array("q")
        self._lengths: list[Integers] = []
        self._segments = self._documents = 0

    def add(self, text: str) -> None:
        """Add a document. Documents are numbered from 0."""
        self._tokens.extend(map(self._vocabulary.__getitem__, words(text)))
        self._ends.append(len(self._tokens))
        if len(self._tokens) >= SEGMENT_TOKENS:
            self._flush()

    def finish(self) -> None:
        """Write the index."""
        self._flush()
        lengths = np.concatenate([np.zeros(0, np.int64), *self._lengths])
        order = self._write_terms()
        _merge(self._folder, self._work, self._segments, order, lengths)
        shutil.rmtree(self._work)

    def _write_terms(self) -> Integers:
        """Write the terms in the order of their bytes. Return an array: element n is the position of term n in this
        order.
        """
        names = [name.encode("utf-8", "surrogatepass") for name in self._vocabulary.terms]
        self._vocabulary.clear()
        self._vocabulary.terms.clear()
        by_bytes = sorted(range(len(names)), key=names.__getitem__)
        write_sorted_texts(self._folder, "terms", (names[number] for number in by_bytes))
        order = np.empty(len(names), np.int64)
        order[by_bytes] = np.arange(len(names))
        return order

    def _flush(self) -> None:
        """Write the collected tokens as a segment."""
        tokens = np.frombuffer(self._tokens, np.int32) if self._tokens else np.zeros(0, np.int32)
        ends = np.frombuffer(self._ends, np.int64) if self._ends else np.zeros(0, np.int64)
        local = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
        kept = tokens >= 0
        self._lengths.append(np.bincount(local[kept], minlength=len(ends)))
        keys, repeated = np.unique(tokens[kept].astype(np.int64) * max(len(ends), 1) + local[kept], return_counts=True)
        numbers, documents = np.divmod(keys, max(len(ends), 1))
        terms, counts = np.unique(numbers, return_counts=True)
        frequencies = np.minimum(repeated, MAX_FREQUENCY).astype(np.uint16)
        parts = (terms, counts, (documents + self._documents).astype(np.int32), frequencies)
        for name, part in zip(_Segment._fields, parts, strict=True):
            write_array(self._work, f"{self._segments}.{name}", part)
        self._documents += len(ends)
        self._segments += 1
        self._tokens, self._ends = array("i"), array("q")


def _merge(folder: Path, work: Path, segments: int, order: Integers, lengths: Integers) -> None:
    """Merge the segments. `order`: element n is the position of term n in the order of bytes [terms]. `lengths`: the
    number of terms of each document [documents].
    """
    frequencies = np.zeros(len(order), np.int64)  # for each position, the number of documents with the term
    for number in range(segments):
        segment = _load(work, number)
        frequencies[order[segment.terms]] += segment.counts
    starts = np.concatenate([[0], np.cumsum(frequencies)])
    documents = create_array(work, "merged.documents", np.int32, (int(starts[-1]),))
    repeated = create_array(work, "merged.frequencies", np.uint16, (int(starts[-1]),))
    filled = starts[:-1].copy()
    for number in range(segments):
        segment = _load(work, number)
        positions = order[segment.terms]
        firsts = np.cumsum(segment.counts) - segment.counts
        places = np.repeat(filled[positions] - firsts, segment.counts) + np.arange(len(segment.documents))
        documents[places], repeated[places] = segment.documents, segment.frequencies
        filled[positions] += segment.counts
    _write_impacts(folder, frequencies, starts, documents, repeated, lengths)


def _load(work: Path, number: int) -> _Segment:
    return _Segment(*(np.load(work / f"{number}.{name}.npy") for name in _Segment._fields))


def _write_impacts(
    folder: Path,
    frequencies: Integers,
    starts: Integers,
    documents: Integers,
    repeated: NDArray[np.uint16],
    lengths: Integers,
) -> None:
    """Write the postings of each rare term. For each common term, write a row with the term's impact on each document.
    For all terms, also write the highest and the 50th highest impact.
    """
    count = len(lengths)
    common = frequencies * COMMON > count
    rare_starts = np.concatenate([[0], np.cumsum(np.where(common, 0, frequencies))])
    rows = np.where(common, np.cumsum(common) - 1, -1)
    out_documents = create_array(folder, "posting_documents", np.int32, (int(rare_starts[-1]),))
    out_impacts = create_array(folder, "posting_impacts", np.float32, (int(rare_starts[-1]),))
    out_rows = create_array(folder, "rows", np.float32, (int(common.sum()), count))
    highest, fiftieth = np.zeros(len(frequencies), np.float32), np.zeros(len(frequencies), np.float32)
    impacts_of = _Impacts(frequencies, lengths)
    for first, last in _blocks(starts):
        part = slice(int(starts[first]), int(starts[last]))
        numbers = np.repeat(np.arange(first, last), frequencies[first:last])
        of_block = np.asarray(documents[part])
        impacts = impacts_of.of(numbers, of_block, np.asarray(repeated[part]))
        rare = ~common[numbers]
        target = slice(int(rare_starts[first]), int(rare_starts[last]))
        out_documents[target], out_impacts[target] = of_block[rare], impacts[rare]
        highest[first:last] = np.maximum.reduceat(impacts, starts[first:last] - starts[first])
        for number in range(first, last):
            own = slice(int(starts[number] - starts[first]), int(starts[number + 1] - starts[first]))
            if common[number]:
                out_rows[rows[number], of_block[own]] = impacts[own]
            if frequencies[number] >= TOP:
                fiftieth[number] = np.partition(impacts[own], -TOP)[-TOP]
    write_array(folder, "posting_starts", rare_starts.astype(np.int64))
    write_array(folder, "term_documents", frequencies.astype(np.int32))
    write_array(folder, "term_highest", highest)
    write_array(folder, "term_fiftieth", fiftieth)
    write_array(folder, "row_numbers", rows.astype(np.int32))


class _Impacts:
    """Computes impacts, in float64 until they are stored."""

    def __init__(self, frequencies: Integers, lengths: Integers) -> None:
        with_terms = int(np.count_nonzero(lengths))  # Lucene's docCount and mean length leave empty documents out
        mean = max(float(lengths.sum()), 1.0) / max(with_terms, 1)
        self._idf = np.log1p((with_terms - frequencies + 0.5) / (frequencies + 0.5))
        self._norms = K1 * (1.0 - B + B * lengths / mean)

    def of(self, terms: Integers, documents: Integers, repeated: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Return the impacts of postings. All arrays have one element per posting."""
        impacts = self._idf[terms] * repeated / (repeated + self._norms[documents])
        return np.asarray(impacts, np.float32)


def _blocks(starts: Integers) -> list[tuple[int, int]]:
    """Return ranges of terms, each with about BLOCK_POSTINGS postings. All postings of a term are in one range."""
    ranges, first, terms = [], 0, len(starts) - 1
    while first < terms:
        last = int(np.searchsorted(starts, starts[first] + BLOCK_POSTINGS, side="right")) - 1
        last = min(max(last, first + 1), terms)
        ranges.append((first, last))
        first = last
    return ranges
