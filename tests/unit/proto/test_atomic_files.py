"""Atomic replacement of files."""

import json
import os
import subprocess
import sys

import pytest

from arlarena.proto.atomic_files import fsync_path, open_atomic, write_bytes, write_json, write_text


def test_a_file_gets_new_content_and_nothing_else_stays(tmp_path):
    path = tmp_path / "state.json"
    write_bytes(path, b"old")
    write_json(path, {"é": [1, 0.5, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": [1, 0.5, None]}
    write_text(path, "né\n")
    assert path.read_bytes() == "né\n".encode()
    write_bytes(path, b"new", durable=True)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_writing_keeps_the_old_content_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "groups"
    write_bytes(path, b"old")
    with pytest.raises(TypeError, match="bytes"), open_atomic(path) as file:
        file.writelines([b"half", "text"])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_writing_leaves_the_old_content(tmp_path):
    path = tmp_path / "groups"
    write_bytes(path, b"old")
    code = (
        "import os, sys; from pathlib import Path; from arlarena.proto.atomic_files import open_atomic\n"
        "with open_atomic(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o640)])
def test_modes(tmp_path, private, mode):
    path = tmp_path / "run.toml"
    before = os.umask(0o027)
    try:
        write_text(path, "x", private=private)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_a_private_file_is_not_written_through_a_link_that_waits_in_its_place(tmp_path):
    """Another user of a shared folder cannot choose where the content goes."""
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / f".run.toml.{os.getpid()}.partial").symlink_to(elsewhere)
    write_text(tmp_path / "run.toml", "secret", private=True)
    assert not elsewhere.exists()
    assert (tmp_path / "run.toml").read_text() == "secret"


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_bytes(tmp_path / "none" / "file", b"")
    with pytest.raises(FileNotFoundError):
        fsync_path(tmp_path / "none")
