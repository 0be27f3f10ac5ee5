"""The list of planted faults fits the code. `make verify PART=faults` plants them, one after another."""

import ast
import functools
from pathlib import Path

import pytest
from scripts.planted_faults import NOT_IMPORTED, ROOT, PlantedFault, main, planted, read_faults, verdict_of

FAULTS = read_faults()


@functools.cache
def quick_tests(file: str) -> frozenset[str]:
    """The tests of a file that are not marked slow."""
    body = ast.parse((ROOT / file).read_text()).body
    assignments = [ast.unparse(node) for node in body if isinstance(node, ast.Assign)]
    if any(text.startswith("pytestmark = ") and "mark.slow" in text for text in assignments):
        return frozenset()
    functions = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset(
        node.name
        for node in functions
        if node.name.startswith("test_") and "pytest.mark.slow" not in map(ast.unparse, node.decorator_list)
    )


def test_there_are_at_least_thirty_different_faults():
    assert len({(fault.file, fault.text, fault.replacement) for fault in FAULTS}) == len(FAULTS) >= 30


def test_the_text_of_every_fault_occurs_once():
    sources = {fault.file: (ROOT / fault.file).read_text() for fault in FAULTS}
    counts = {fault.name: sources[fault.file].count(fault.text) for fault in FAULTS}
    assert {name: count for name, count in counts.items() if count != 1} == {}


def test_no_planted_fault_is_an_error_of_syntax():
    for fault in FAULTS:
        source = (ROOT / fault.file).read_text()
        changed = source.replace(fault.text, fault.replacement)
        assert changed != source, fault.name
        if fault.file.endswith(".py"):
            compile(changed, f"{fault.file} with {fault.name}", "exec")


def test_the_module_of_a_file_that_is_not_python_is_the_enclosing_package():
    """The driver imports the module before the tests, and a script of the page is no module."""
    page = "services/console/arlarena/console/page"
    assert PlantedFault("x", f"{page}/static/core/dom.js", "", "", ()).module == "arlarena.console.page"
    assert PlantedFault("x", f"{page}/command.py", "", "", ()).module == "arlarena.console.page.command"


def test_the_tests_of_every_fault_exist_and_are_quick():
    named = {fault.name: [test.partition("::") for test in fault.tests] for fault in FAULTS}
    assert all(named.values())
    missing = {name: test for name, tests in named.items() for file, _, test in tests if test not in quick_tests(file)}
    assert missing == {}


def test_a_planted_fault_is_removed_again(tmp_path: Path):
    (tmp_path / "one.py").write_text("a = 1\n")
    fault = PlantedFault("one", "one.py", "a = 1", "a = 2", ("test_one.py",))
    with planted(tmp_path, fault):
        assert (tmp_path / "one.py").read_text() == "a = 2\n"
        with (
            pytest.raises(ValueError, match=r"the text to replace occurs 0 times in .*one\.py"),
            planted(tmp_path, fault),
        ):
            pass
    assert (tmp_path / "one.py").read_text() == "a = 1\n"


@pytest.mark.parametrize(
    ("code", "output", "caught", "what"),
    [
        (1, "F\nFAILED tests/a.py::test_b - assert 1 == 2\n1 failed", True, "tests/a.py::test_b - assert 1 == 2"),
        (1, "E\nERROR tests/test_a.py::test_b - OSError\n1 error", True, "tests/test_a.py::test_b - OSError"),
        (0, "..\n2 passed", False, "its tests pass"),
        (2, "ERROR tests/test_a.py\n1 error", False, "pytest ended with 2 (1 error)"),
        (NOT_IMPORTED, "m: SyntaxError()", False, "its module cannot be imported (m: SyntaxError())"),
        (-1, "..", False, "its tests took too long (..)"),
    ],
)  # fmt: skip
def test_a_fault_is_caught_where_a_test_fails_and_not_otherwise(code, output, caught, what):
    assert verdict_of(code, output) == (caught, what)


def test_an_unknown_fault_is_named(capsys):
    assert main(["no-such-fault"]) == 2
    assert "no fault is called no-such-fault; known: advantage-sign" in capsys.readouterr().err
