"""`arlarena init`: what is written works as it stands, and nothing is overwritten."""

import os
from pathlib import Path

import pytest
from support.processes import forking_support
from typer.testing import CliRunner

from arlarena.console.cli.app import app
from arlarena.console.cli.scaffold import init
from arlarena.proto.config import ConfigError

LONGEST = "a" + "_9" * 19 + "z"
FILES = {"pyproject.toml", "README.md", "run.toml"}


def run(folder: Path, *arguments: str) -> str:
    """What `python -m ARGUMENTS` prints in `folder`, whose modules it can import."""
    variables = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
    done = forking_support.run(arguments, cwd=folder, env=variables, timeout=100, imports="arlarena.trainer")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["environment", "objective"])
def test_a_written_package_passes_its_own_test(kind: str, tmp_path: Path) -> None:
    # A folder above may have other settings of pytest, for example the checkout of this repository.
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "--import-mode=importlib"\n')
    folder = init(kind, "my_first", tmp_path)
    assert {path.name for path in folder.iterdir()} == FILES | {"my_first.py", "test_my_first.py"}
    assert " passed" in run(folder, "pytest", "-q", "-p", "no:cacheprovider")
    if kind == "environment":
        assert "12 of 12 checks hold" in run(folder, "arlarena.environment.contract", "my_first")


@pytest.mark.parametrize("name", ["x", "my_first", LONGEST])
@pytest.mark.parametrize("kind", ["environment", "objective"])
def test_a_written_package_is_linted_and_formatted(kind: str, name: str, tmp_path: Path) -> None:
    folder = init(kind, name, tmp_path)
    run(folder, "ruff", "check", "--no-cache", ".")
    run(folder, "ruff", "format", "--no-cache", "--check", ".")


@pytest.mark.parametrize("name", ["", "1st", "My_env", "my-env", "class", "_x", "x_", LONGEST + "z", "..", "a/b", "é"])
def test_a_name_that_is_no_identifier_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a Python identifier of at most 40 lower-case letters"):
        init("environment", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "name", "what"),
    [
        ("environment", "json", "an installed Python module"),
        ("environment", "arlarena", "an installed Python module"),
        ("environment", "guess", "an installed environment"),
        ("objective", "torch", "an installed Python module"),
    ],
)
def test_a_name_that_is_taken_is_refused(kind: str, name: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"NAME '{name}' is the name of {what}: choose another name"):
        init(kind, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    folder = init("objective", "mine", tmp_path)
    (folder / "mine.py").write_text("changed")
    with pytest.raises(ConfigError, match="exists already: choose another name, or another folder with --into"):
        init("objective", "mine", tmp_path)
    assert (folder / "mine.py").read_text() == "changed"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written: Not a directory"):
        init("environment", "mine", tmp_path / "file")


def test_the_command_writes_into_the_present_folder_or_the_one_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["init", "env", "here"])
    assert (done.exit_code, (tmp_path / "here" / "here.py").is_file()) == (0, True)
    assert "cd here && pip install -e . && pytest" in done.output
    assert CliRunner().invoke(app, ["init", "objective", "there", "--into", "a b"]).exit_code == 0
    assert (tmp_path / "a b" / "there" / "there.py").is_file()
