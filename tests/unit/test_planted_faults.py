"""The list of planted faults fits the code. `make verify PART=faults` plants them, one after another."""

import ast
import functools
from pathlib import Path

import pytest
from scripts.planted_faults import NOT_IMPORTED, ROOT, Fault, main, planted, read_faults, verdict_of

FAULTS = read_faults()
each_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)


@functools.cache
def tests_of(file: str) -> dict[str, bool]:
    """Whether each test of a file is marked slow."""
    body = ast.parse((ROOT / file).read_text()).body
    marks = [
        node.value for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    slow_file = any("mark.slow" in ast.unparse(mark) for mark in marks)
    return {
        node.name: slow_file or any("mark.slow" in ast.unparse(mark) for mark in node.decorator_list)
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_there_are_at_least_thirty_faults():
    assert len(FAULTS) >= 30
    assert len({(fault.file, fault.text, fault.fault) for fault in FAULTS}) == len(FAULTS)


@each_fault
def test_a_fault_can_be_planted(fault):
    source = (ROOT / fault.file).read_text()
    assert source.count(fault.text) == 1
    assert fault.text != fault.fault
    compile(source.replace(fault.text, fault.fault), fault.file, "exec")


@each_fault
def test_the_tests_of_a_fault_exist_and_are_quick(fault):
    assert fault.tests
    for test in fault.tests:
        file, _, name = test.partition("::")
        assert tests_of(file).get(name.partition("[")[0]) is False, test


def test_a_planted_fault_is_removed_again(tmp_path: Path):
    (tmp_path / "one.py").write_text("a = 1\n")
    fault = Fault("one", "one.py", "a = 1", "a = 2", ("test_one.py",))
    with planted(tmp_path, fault):
        assert (tmp_path / "one.py").read_text() == "a = 2\n"
        with pytest.raises(ValueError, match=r"its text occurs 0 times in one\.py"), planted(tmp_path, fault):
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
