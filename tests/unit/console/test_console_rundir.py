"""Whose a run directory is, and what may be done to it."""

import json
import subprocess
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import pytest

from arlarena.console import rundir
from arlarena.console.rundir import ExistingRunPolicy, RunDirectory, code_version
from arlarena.proto.config import ConfigError


def begin(path: Path, start: ExistingRunPolicy = ExistingRunPolicy.NEW) -> RunDirectory:
    run = RunDirectory(path)
    run.open("demo", start)
    return run


def test_a_new_run_has_an_id_of_its_own(tmp_path: Path) -> None:
    first, second = begin(tmp_path / "a"), begin(tmp_path / "b")
    assert first.state.id != second.state.id
    assert first.state.id.startswith("demo-")


def test_resume_keeps_id_and_stages(tmp_path: Path) -> None:
    first = begin(tmp_path / "a")
    first.state.stages["clone"] = 3.5
    first.save()
    first.release()
    again = begin(tmp_path / "a", ExistingRunPolicy.RESUME)
    assert again.state.id == first.state.id
    assert again.state.stages == {"clone": 3.5}


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    run = begin(tmp_path / "a")
    run.state.finished = True
    run.save()
    run.release()
    with pytest.raises(ConfigError, match=r"finished run.*--resume.*--fresh"):
        begin(tmp_path / "a")


def test_fresh_keeps_every_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for name in ("first", "second", "third"):
        run = begin(path, ExistingRunPolicy.FRESH)
        (path / name).touch()
        run.release()
    last = begin(path, ExistingRunPolicy.FRESH)
    assert sorted(entry.name for entry in path.iterdir()) == [".lock", "run.json"]
    assert (tmp_path / "a.previous" / "first").exists()
    assert (tmp_path / "a.previous-2" / "second").exists()
    assert (tmp_path / "a.previous-3" / "third").exists()
    assert last.moved_to == tmp_path / "a.previous-3"


@pytest.mark.parametrize("start", list(ExistingRunPolicy))
def test_somebody_elses_directory_is_left_alone(tmp_path: Path, start: ExistingRunPolicy) -> None:
    path = tmp_path / "a"
    path.mkdir()
    (path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="contains no ARLArena run"):
        begin(path, start)
    assert [entry.name for entry in path.iterdir()] == ["thesis.tex"]


def test_somebody_elses_directory_in_the_place_of_the_previous_run_is_left_alone(tmp_path: Path) -> None:
    begin(tmp_path / "a").release()
    aside = tmp_path / "a.previous"
    aside.mkdir()
    (aside / "thesis.tex").write_text("precious")
    (tmp_path / "a.previous-2").symlink_to("nowhere")
    assert begin(tmp_path / "a", ExistingRunPolicy.FRESH).moved_to == tmp_path / "a.previous-3"
    assert [entry.name for entry in aside.iterdir()] == ["thesis.tex"]
    assert (tmp_path / "a.previous-2").is_symlink()


@pytest.mark.parametrize("start", [ExistingRunPolicy.RESUME, ExistingRunPolicy.FRESH])
def test_a_directory_in_use_is_refused(tmp_path: Path, start: ExistingRunPolicy) -> None:
    path = tmp_path / "a"
    begin(path)
    with pytest.raises(ConfigError, match="in use by another"):
        begin(path, start)
    assert (path / "run.json").exists()


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run to resume"):
        begin(tmp_path / "a", ExistingRunPolicy.RESUME)
    assert not (tmp_path / "a").exists()


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        begin(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        (json.dumps({"id": "x", "name": "y", "schema": 99}), "a newer version of ARLArena"),
        (
            json.dumps({"id": "x", "name": "y", "schema": 1}),
            r"an older version of ARLArena \(schema 1; this version uses schema 3\)",
        ),
    ],
)
def test_a_state_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a"
    path.mkdir()
    (path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        begin(path, ExistingRunPolicy.RESUME)
    assert (path / "run.json").read_text() == text


def test_a_fresh_run_replaces_one_of_an_older_schema(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.mkdir()
    (path / "run.json").write_text(json.dumps({"id": "x", "name": "y", "schema": 1}))
    assert begin(path, ExistingRunPolicy.FRESH).state.id != "x"
    assert (tmp_path / "a.previous" / "run.json").exists()


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def test_the_version_of_the_code_names_its_commit(tmp_path: Path) -> None:
    file = tmp_path / "code" / "rundir.py"
    file.parent.mkdir()
    file.write_text("1\n")
    released = version("arlarena-console")
    assert code_version(file) == released
    git(tmp_path, "init")
    assert code_version(file) == released  # a repository that does not hold the code
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = code_version(file).removeprefix(f"{released}, commit ")
    assert len(commit) >= 7
    assert (tmp_path / ".git").exists()
    file.write_text("2\n")
    assert code_version(file) == f"{released}, commit {commit}+changes"


def test_a_run_keeps_its_start_and_every_version_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(tmp_path / "run")
    for code in ("0.1.0", "0.1.0", "0.2.0"):
        monkeypatch.setattr(rundir, "code_version", lambda code=code: code)
        run.open(
            "demo", ExistingRunPolicy.RESUME if run.path.exists() else ExistingRunPolicy.NEW, f"arlarena up {code}"
        )
        run.release()
    state = RunDirectory(run.path).read_state()
    assert state is not None
    assert state.code == ["0.1.0", "0.2.0"]
    assert state.command == "arlarena up 0.1.0"
    assert datetime.fromisoformat(state.started).tzinfo is not None
