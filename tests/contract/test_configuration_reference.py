"""The reference of the configuration is what the services' settings say."""

import subprocess
import sys
import tomllib
from pathlib import Path

from arlarena.proto.config import TABLES

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "configuration_reference.py"
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


def test_the_page_is_the_one_that_the_script_writes() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


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
