"""An output folder is written atomically, and never replaces files that the command did not write."""

from pathlib import Path

import pytest

from arlarena.proto.config import ConfigError
from arlarena.trainer.output import MARKER, atomic_folder, check_output


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def write(out, *files, then=lambda: None):
    with atomic_folder(out, {"kind": "test"}) as folder:
        for file in files:
            (folder / file).write_text(file)
        then()


def full_disk():
    raise OSError("the disk is full")


def test_the_folder_is_created_with_parents_and_replaced_atomically(tmp_path):
    out = tmp_path / "a" / "out"
    write(out, "first", "both")
    write(out, "second", "both")
    assert names(out) == [MARKER, "both", "second"]
    assert names(out.parent) == ["out"]


def test_an_empty_folder_and_a_link_to_one_are_replaced(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    write(tmp_path / "link", "file")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "empty") == [MARKER, "file"]


def test_a_failure_keeps_the_old_folder_and_leaves_no_temporary_folder(tmp_path):
    write(tmp_path / "out", "old")
    with pytest.raises(OSError, match="disk"):
        write(tmp_path / "out", "half", then=full_disk)
    assert names(tmp_path / "out") == [MARKER, "old"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("added", ["thesis.tex", "folder/"])
@pytest.mark.parametrize("own", [False, True])
def test_other_files_are_never_removed(tmp_path, own, added, late):
    """`late`: the files appear while the command runs."""
    out = tmp_path / "out"
    if own:
        write(out, "old")

    def add():
        place = out / added
        (place if added.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if not added.endswith("/"):
            place.write_text("precious")

    if not late:
        add()
    with pytest.raises(ConfigError, match=added.rstrip("/")):
        write(out, "new", then=add)
    assert added.rstrip("/") in names(out)
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("record", ["[]", "{", '{"files": 3}', '{"kind": "tiny"}'])
def test_an_invalid_record_allows_no_replacement(tmp_path, record):
    (tmp_path / MARKER).write_text(record)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        ConfigError, match=r"contains files that this command did not write \(arlarena\.json, model\.safetensors\)"
    ):
        check_output(tmp_path)


@pytest.mark.parametrize("out", ["a/model", "a", "a/model/out", "a/model/../model", "link"])
def test_the_folder_must_not_overlap_the_model(tmp_path, out):
    (tmp_path / "a" / "model").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/model")
    with pytest.raises(ConfigError, match="overlaps --model"):
        check_output(tmp_path / out, apart={"--model": tmp_path / "a" / "model"})
    check_output(tmp_path / "a" / "out", apart={"--model": tmp_path / "a" / "model"})


def test_the_folder_may_be_in_the_run_directory_but_not_contain_it(tmp_path):
    check_output(tmp_path / "run" / "cloned", outside={"--run-dir": tmp_path / "run"})
    for out in (tmp_path, tmp_path / "run"):
        with pytest.raises(ConfigError, match="overlaps --run-dir"):
            check_output(out, outside={"--run-dir": tmp_path / "run"})


def test_a_file_and_a_mount_point_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        check_output(tmp_path / "file")
    with pytest.raises(ConfigError, match="mount point"):
        check_output(Path("/proc"))
