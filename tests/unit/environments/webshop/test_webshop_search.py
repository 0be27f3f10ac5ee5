"""The 50 best documents of the index, compared with Lucene's formula written out in float64."""

import functools
import json
import math
import random
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from arlarena.environments.webshop.search import build as build_module
from arlarena.environments.webshop.search.analyzer import terms
from arlarena.environments.webshop.search.build import IndexBuilder
from arlarena.environments.webshop.search.index import Index

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data" / "webshop"
K1, B = 0.9, 0.4


class Reference:
    """BM25 of Lucene 8 and newer, with exact document lengths."""

    def __init__(self, texts):
        self.counts = [Counter(terms(text)) for text in texts]
        self.frequencies = Counter(term for count in self.counts for term in count)
        lengths = [count.total() for count in self.counts]
        self.documents = sum(length > 0 for length in lengths)
        mean = sum(lengths) / self.documents
        self.norms = [K1 * (1 - B + B * length / mean) for length in lengths]
        self.postings = {}
        for number, count in enumerate(self.counts):
            for term, repeated in count.items():
                self.postings.setdefault(term, []).append((number, repeated))
        self.scores = functools.cache(self._scores)

    def _scores(self, query):
        found = Counter()
        for term in terms(query):
            df = self.frequencies[term]
            idf = math.log(1 + (self.documents - df + 0.5) / (df + 0.5))
            for number, repeated in self.postings.get(term, ()):
                found[number] += idf * repeated / (repeated + self.norms[number])
        return found

    def top(self, query, size):
        return sorted(self.scores(query).items(), key=lambda item: (-item[1], item[0]))[:size]


def index_of(folder, texts):
    folder.mkdir()
    builder = IndexBuilder(folder)
    for text in texts:
        builder.add(text)
    builder.finish()
    return Index(folder)


def zipf_texts(count, words=3000, length=40, seed=0):
    """Documents whose words have Zipf frequencies, as the words of a language have."""
    source = np.random.default_rng(seed)
    letters = np.array(list(string.ascii_lowercase))
    names = np.array(["q" + "".join(letters[source.integers(0, 26, 5)]) for _ in range(words)], dtype=object)
    shares = 1 / np.arange(1, words + 1)
    for size in source.poisson(length, count):
        yield " ".join(names[source.choice(words, size, p=shares / shares.sum())])


def overlap(index, reference, queries):
    """The mean share of the reference's ten best documents that are among the index's ten best."""
    shares = []
    for query in queries:
        expected = {number for number, _ in reference.top(query, 10)}
        if expected:
            shares.append(len(expected & set(index.search(query)[:10])) / len(expected))
    return len(shares), sum(shares) / len(shares)


@pytest.fixture(scope="module")
def corpus():
    return list(zipf_texts(2000))


@pytest.fixture(scope="module")
def index(corpus, tmp_path_factory):
    return index_of(tmp_path_factory.mktemp("search") / "index", corpus)


@pytest.fixture(scope="module")
def reference(corpus):
    return Reference(corpus)


@pytest.fixture(scope="module")
def queries(corpus):
    source = random.Random(1)
    return [" ".join(source.choices(source.choice(corpus).split(), k=source.randint(1, 14))) for _ in range(320)]


def test_ten_best_equal_lucenes_formula_on_a_synthetic_corpus(index, reference, queries):
    count, share = overlap(index, reference, queries)
    assert count >= 300
    assert share >= 0.99


def test_all_fifty_scores_equal_lucenes_formula(index, reference, queries):
    for query in queries:
        scores = reference.scores(query)
        found = [scores[number] for number in index.search(query)]
        expected = [score for _, score in reference.top(query, 50)]
        assert found == pytest.approx(expected, rel=1e-4), query


def test_ten_best_equal_lucenes_formula_on_products(tmp_path):
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data/webshop")
    products = json.loads((SHARED / "lookalike_items.json").read_text())
    texts = [f"{p['name']} {p['full_description']} {' '.join(p['small_description'])}".lower() for p in products]
    index, reference = index_of(tmp_path / "index", texts), Reference(texts)
    count, share = overlap(index, reference, json.loads((SHARED / "human_goals.json").read_text())[:400])
    assert count >= 300
    assert share >= 0.99


def test_an_index_of_many_segments_equals_that_of_one(corpus, index, tmp_path, monkeypatch, queries):
    monkeypatch.setattr(build_module, "SEGMENT_TOKENS", 5000)
    monkeypatch.setattr(build_module, "BLOCK_POSTINGS", 300)
    monkeypatch.setattr(build_module, "MAX_CACHED_WORDS", 50)
    other = index_of(tmp_path / "index", corpus)
    assert all(other.search(query) == index.search(query) for query in queries)


@pytest.mark.parametrize("query", ["", "   ", "the and of", "zzzunknown", "!?…", "\ud800"])
def test_a_query_without_known_terms_has_no_results(index, query):
    assert index.search(query) == []


def test_unknown_words_do_not_change_the_results(index, queries):
    assert index.search(queries[0] + " zzzunknown") == index.search(queries[0])


def test_a_very_long_query_is_answered(index, corpus, reference):
    query = " ".join(corpus[:20])
    scores = reference.scores(query)
    expected = [score for _, score in reference.top(query, 50)]
    assert [scores[number] for number in index.search(query)] == pytest.approx(expected, rel=1e-4)


def test_equal_documents_are_in_order(tmp_path):
    index = index_of(tmp_path / "index", ["red shoe", "blue shoe"] * 100)
    assert index.search("red") == list(range(0, 100, 2))
    assert index.search("shoe") == list(range(50))
    assert index.search("blue shoe")[:50] == list(range(1, 101, 2))


def test_repeated_terms_count_repeatedly(tmp_path):
    index = index_of(tmp_path / "index", ["red shoe shoe", "blue shoe", "red hat", "blue hat hat"])
    assert index.search("blue red red")[0] == 2
    assert index.search("red blue blue")[0] == 1


def test_documents_without_terms_are_never_found(tmp_path):
    index = index_of(tmp_path / "index", ["", "the", "red"])
    assert index.search("red the") == [2]
    assert index.documents == 3


def test_an_index_without_terms_has_no_results(tmp_path):
    assert index_of(tmp_path / "index", ["", "the"]).search("red") == []


def test_an_index_of_one_document_finds_it(tmp_path):
    assert index_of(tmp_path / "index", ["red shoe"]).search("shoes") == [0]
