"""The catalog of the runs of a page."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from arlarena.console.page import runs
from arlarena.console.page.runs import Catalog


def make_runs(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "run.json").write_text("{}")


@pytest.mark.parametrize("wait", [False, True])
def test_a_search_for_new_runs_respects_the_maximum_number_of_runs(tmp_path, monkeypatch, wait):
    monkeypatch.setattr(runs, "MAX_RUNS", 2)
    folder = tmp_path / "runs"
    make_runs(folder, "b", "c", "d")
    catalog = Catalog([folder, tmp_path / "absent"] if wait else [folder], tmp_path / "cache", wait=wait)
    with contextlib.closing(catalog):
        catalog.rescan()
        make_runs(folder, "a")
        catalog.rescan()
        assert [run.id for run in catalog.runs()] == ["b", "c"]


def test_a_search_for_new_runs_adds_the_runs_of_a_folder_that_was_added_later(tmp_path):
    make_runs(tmp_path / "runs", "first")
    with contextlib.closing(Catalog([tmp_path / "runs"], tmp_path / "cache")) as catalog:
        catalog.add_folder(tmp_path / "played")
        make_runs(tmp_path / "runs", "second")
        make_runs(tmp_path / "played", "game")
        assert [run.id for run in catalog.runs()] == ["first"]
        catalog.rescan()
        assert [run.id for run in catalog.runs()] == ["first", "second", "game"]
