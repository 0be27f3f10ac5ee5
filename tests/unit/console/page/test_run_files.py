"""A hostile run directory gives named errors: links, special files, names that leave the directory, long records."""

import os

import pytest

from arlarena.console.page.reading import records, run_files
from arlarena.console.page.reading.run_files import BoundedFiles, DamagedFile


@pytest.fixture
def files(tmp_path):
    (tmp_path / "secret").write_text("outside")
    run = tmp_path / "run"
    (run / "groups").mkdir(parents=True)
    (run / "config.toml").write_text("a = 1\n")
    return BoundedFiles(run)


@pytest.mark.parametrize("name", ["../secret", "groups/../../secret", "/etc/passwd", "", "groups//a", "a\0b", "."])
def test_names_that_leave_the_directory_are_refused(files, name):
    with pytest.raises(DamagedFile, match="not permitted"):
        files.open(name)


def test_links_are_not_followed(files, tmp_path):
    (files.root / "link.toml").symlink_to(tmp_path / "secret")
    (files.root / "folder").symlink_to(tmp_path)
    (files.root / "groups" / "step-000001.msgpack").symlink_to(tmp_path / "secret")
    with pytest.raises(DamagedFile, match=r"link\.toml: a symbolic link"):
        files.read("link.toml")
    with pytest.raises(DamagedFile, match="folder/secret"):
        files.read("folder/secret")
    assert files.list("folder", "") == []
    assert files.list("groups", ".msgpack") == []
    assert files.state("link.toml") is None


def test_special_files_and_folders_are_refused_at_once(files):
    os.mkfifo(files.root / "metrics.jsonl")
    for name in ("metrics.jsonl", "groups"):
        with pytest.raises(DamagedFile, match=name):
            files.read(name)
    assert files.read("missing") is None
    assert files.read("nothing/missing") is None


def test_reads_have_limits(files, monkeypatch):
    with pytest.raises(DamagedFile, match="more than 3 bytes"):
        files.read("config.toml", 3)
    monkeypatch.setattr(run_files, "RECORD_BYTES", 4)
    with pytest.raises(DamagedFile, match="above the limit"):
        files.read_at("config.toml", 0, 5)
    with pytest.raises(DamagedFile, match="shorter"):
        files.read_at("config.toml", 4, 4)
    assert files.tail("config.toml", 3) == b""
    assert files.tail("config.toml", 100) == b"a = 1\n"


def test_a_long_record_is_an_error_and_a_long_line_is_skipped(files, monkeypatch):
    monkeypatch.setattr(records, "RECORD_BYTES", 10)
    (files.root / "groups" / "a.msgpack").write_bytes((11).to_bytes(4, "little") + bytes(11))
    with pytest.raises(DamagedFile, match="record 0 has 11 bytes; the limit is 10"):
        list(records.frames(files, "groups/a.msgpack"))
    (files.root / "lines").write_bytes(b"short\n" + b"x" * 35 + b"\nnext\nhalf")
    found = list(records.lines(files, "lines"))
    assert [line for _, line in found] == [b"short\n", None, b"next\n"]
    assert [(place.number, place.offset, place.size) for place, _ in found] == [(0, 0, 6), (1, 6, 36), (2, 42, 5)]
