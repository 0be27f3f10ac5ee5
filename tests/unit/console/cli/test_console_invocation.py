"""Printed commands begin with a program that works as printed."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arlarena.console.cli.invocation import module, program

SCRIPT = Path(sys.executable).parent / "arlarena"


def test_a_path_that_was_typed_is_printed_where_path_has_no_such_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert program(str(SCRIPT)) == [str(SCRIPT)]


def test_a_relative_path_is_printed_as_typed_and_absolute_for_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my tools"
    folder.mkdir()
    (folder / "arlarena").symlink_to(SCRIPT)
    monkeypatch.chdir(tmp_path)
    assert program("my tools/arlarena") == ["my tools/arlarena"]
    assert program("my tools/arlarena", anywhere=True) == [str(folder / "arlarena")]


def test_the_name_alone_is_printed_where_path_has_this_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "arlarena").symlink_to(SCRIPT)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program(str(SCRIPT)) == ["arlarena"]


def test_another_program_of_that_name_on_path_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "arlarena"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program(str(SCRIPT)) == [str(SCRIPT)]


def test_a_module_is_printed_with_its_python() -> None:
    assert program(str(Path("arlarena") / "console" / "__main__.py")) == module("arlarena.console")
    done = subprocess.run([*module("arlarena.console"), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("arlarena ")


def test_the_command_that_is_printed_works_as_printed(tmp_path: Path) -> None:
    """A relative path with a space, and a PATH without `arlarena`: the run's own message is typed into a shell."""
    folder = tmp_path / "my tools"
    folder.mkdir()
    (folder / "arlarena").symlink_to(SCRIPT)
    environment = {"PATH": os.defpath}
    assert shutil.which("arlarena", path=os.defpath) is None
    code = (
        "import sys; from arlarena.console.cli.invocation import command_line; sys.argv[0] = 'my tools/arlarena'; "
        "print(command_line(['--version']))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert shlex.split(printed) == ["my tools/arlarena", "--version"]
    done = subprocess.run(printed, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("arlarena "), done.stderr
