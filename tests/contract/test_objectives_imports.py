"""Objectives stay usable on their own: torch, the standard library and themselves; `arlarena` stays a namespace."""

import ast
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
OBJECTIVES = REPOSITORY / "services/trainer/arlarena/trainer/objectives"
OWN = "arlarena.trainer.objectives"


@pytest.mark.parametrize("path", sorted(OBJECTIVES.glob("**/*.py")), ids=lambda path: path.name)
def test_objectives_import_torch_alone(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += ["." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)]
    roots = {name if name.startswith(OWN) else name.split(".")[0] for name in modules}
    foreign = {root for root in roots if not root.startswith(OWN) and root not in {"torch", *sys.stdlib_module_names}}
    assert not foreign, f"{path.name} imports {foreign}"


def test_the_scan_sees_files() -> None:
    names = {path.stem for path in OBJECTIVES.glob("*.py")}
    assert names >= {"aggregation", "clipping", "advantages", "filtering", "kl", "recipes"}


def test_arlarena_has_no_init() -> None:
    portions = [path for pattern in ("*/arlarena", "services/*/arlarena") for path in REPOSITORY.glob(pattern)]
    assert portions
    assert not [path for path in portions if (path / "__init__.py").exists()]
