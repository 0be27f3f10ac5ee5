"""Rules of AGENTS.md that no linter has: sizes of files and folders, unique class names, no edit of sys.path."""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("proto", "client", "sandbox", "environments", "services")
MOST_LINES, MOST_MODULES = 400, 15

EDITS_OF_SYS_PATH = re.compile(
    r"\bsys\.path(\[[^]]*\])?\s*(\+?=)(?!=)"
    r"|sys\.path\.(append|clear|extend|insert|pop|remove|reverse|sort)\b"
    r"|setattr\(sys, [\"']path[\"']|addsitedir"
)
MAY_EDIT_SYS_PATH = {
    "benchmarks/webshop/flask_shop.py": "uses the templates of the tests",
    "sandbox/arlarena/sandbox/zygote_client.py": "the zygote starts isolated and takes over the path of its parent",
    "tests/e2e/test_how_to.py": "a fresh environment sees the packages of this one",
    "tests/integration/sandbox/test_attacks.py": "the program starts isolated, as another user",
    "tests/integration/sandbox/test_forks.py": "a program sees the libraries on the path of the service",
    "tests/integration/sandbox/test_identity.py": "programs start isolated; a library edits the path on import",
    "tests/support/processes/forker.py": "a forked process has the path of `python -m`",
    "tests/support/sandbox/sandbox_support.py": "a program sees the libraries on the path of the service",
}


def modules(*folders: str) -> Iterator[Path]:
    """The Python files below these folders of the repository."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not {"build", "dist"} & set(path.relative_to(ROOT).parts):
                yield path


EVERYTHING = sorted(modules(*PACKAGES, "tests", "benchmarks", "scripts", "examples"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_longer_than_the_limit():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in EVERYTHING}
    assert len(lengths) > 500
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_no_folder_has_more_modules_than_the_limit():
    folders = Counter(name_of(path.parent) for path in EVERYTHING if path.name != "__init__.py")
    assert {folder: count for folder, count in folders.items() if count > MOST_MODULES} == {}


def test_only_the_named_files_edit_sys_path():
    own = name_of(Path(__file__))
    found = {name_of(path) for path in EVERYTHING if EDITS_OF_SYS_PATH.search(path.read_text())} - {own}
    assert found == set(MAY_EDIT_SYS_PATH)


def test_edits_of_sys_path_are_recognised():
    for edit in (
        "sys.path.insert(0, x)", "sys.path[:0] = x", "sys.path += x", "sys.path = []", "sys.path.append(x)",
        'monkeypatch.setattr(sys, "path", x)',
    ):  # fmt: skip
        assert EDITS_OF_SYS_PATH.search(edit), edit
    for use in ("sys.path_importer_cache.clear()", "sys.path == x", "[*sys.path, x]", "sys.path[0]"):
        assert not EDITS_OF_SYS_PATH.search(use), use


def test_no_public_class_name_occurs_twice():
    places = defaultdict(list)
    for path in modules(*PACKAGES):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name_of(path))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
