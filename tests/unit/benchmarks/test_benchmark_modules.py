"""Every module of the benchmarks can be imported. No other test notices that an imported name has been removed."""

from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "benchmarks").rglob("*.py"))
# Packages of optional environments.
OPTIONAL = ("bm25s", "flask", "openenv", "schemathesis", "tantivy", "textworld", "thefuzz")


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_module_can_be_imported(name: str) -> None:
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in OPTIONAL:
            raise
