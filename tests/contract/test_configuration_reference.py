"""The reference of the configuration is what the services' settings say."""

import sys
import tomllib
from pathlib import Path

import pytest
from scripts.configuration_reference import main

from arlarena.proto.config import TABLES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "configuration.md"


def rows() -> dict[str, dict[str, list[str]]]:
    """The page's rows: by table, by key, the cells."""
    found: dict[str, dict[str, list[str]]] = {}
    table = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            table = line.partition("`[")[2].partition("]`")[0]
        elif line.startswith("| `"):
            cells = [cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")]
            found.setdefault(table, {})[cells[0].strip("`")] = cells
    return found


def test_the_page_is_the_one_that_the_script_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["configuration_reference.py", "--check"])
    assert main() == 0, capsys.readouterr().err


def test_every_key_has_its_default_and_a_meaning() -> None:
    page = rows()
    assert set(TABLES) <= page.keys()
    for table, keys in page.items():
        for key, cells in keys.items():
            assert all(cells[1:2] + cells[3:]), f"[{table}] {key} lacks a type or a meaning: {cells}"
    assert page["trainer"]["group_size"][2] == "`8`"
    assert page["evaluation"]["top_p"][1] == "number, > 0, ≤ 1"


def test_the_keys_of_the_runs_in_configs_are_there() -> None:
    page = rows()
    for path in sorted((ROOT / "configs").glob("*.toml")):
        for table, values in tomllib.loads(path.read_text(encoding="utf-8")).items():
            assert values.keys() <= page[table].keys(), (path.name, table)
