"""The folder of an index: full disks, folders that cannot be read, links, and folders of other versions."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from support.environments.webshop_catalogue_support import FakeNouns, Options, entry, write_official

from arlarena.environments.webshop.catalogue import build as build_module
from arlarena.environments.webshop.catalogue import open as open_module
from arlarena.environments.webshop.catalogue.official import find_files
from arlarena.environments.webshop.catalogue.open import build_official, open_catalogue
from arlarena.environments.webshop.catalogue.tables import create_array, open_array, write_array
from arlarena.environments.webshop.errors import CatalogueError

NOBODY = 65534
# Builds a catalogue on a file system of 1 MB, in which a part of it is taken.
ON_A_SMALL_DISK = """
import pathlib, subprocess, sys
from support.environments.webshop_catalogue_support import FakeNouns, Options
from arlarena.environments.webshop.catalogue import open as module
from arlarena.environments.webshop.errors import CatalogueError
module.NounFinder = FakeNouns
data, disk = map(pathlib.Path, sys.argv[1:3])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
for taken in map(int, sys.argv[3:]):
    (disk / "taken").write_bytes(bytes(taken * 1024))
    try:
        print(taken, len(module.open_catalogue(Options(data=data, index=disk / "index"))))
        break
    except CatalogueError as error:
        print(taken, error, sorted(path.name for path in disk.iterdir()))
"""


@pytest.fixture(autouse=True)
def _fake_nouns(monkeypatch):
    monkeypatch.setattr(open_module, "NounFinder", FakeNouns)


@pytest.fixture
def data(tmp_path):
    return write_official(tmp_path / "data", [entry(f"B{number}") for number in range(300)])


@pytest.fixture
def make_unreadable():
    """A function that takes the rights to a folder from this process."""
    changed = []

    def make(folder):
        if os.geteuid() == 0:  # root reads everything, and others do not read the parent folder of this test's folder
            os.seteuid(NOBODY)
            return
        changed.append((folder, folder.stat().st_mode))
        folder.chmod(0)

    root = os.geteuid() == 0
    yield make
    if root:
        os.seteuid(0)
    for folder, mode in changed:
        folder.chmod(mode)


# ---- full disks ------------------------------------------------------------------------------------------------------


def test_the_space_of_a_mapped_array_is_reserved(tmp_path):
    create_array(tmp_path, "a", np.int64, (100_000,))
    found = (tmp_path / "a.npy").stat()
    assert found.st_blocks * 512 >= found.st_size > 800_000


@pytest.mark.parametrize("values", [np.arange(7, dtype=np.int32), np.zeros((3, 0), np.float32), np.ones((2, 3))])
def test_an_array_is_read_as_it_was_written(tmp_path, values):
    write_array(tmp_path, "a", values)
    read = open_array(tmp_path, "a", values.dtype.type, values.ndim)
    assert read.shape == values.shape
    assert (read == values).all()


@pytest.mark.parametrize("calls", range(0, 21, 4))
def test_a_full_disk_is_named_and_nothing_incomplete_stays(tmp_path, monkeypatch, data, calls):
    reserve, left = os.posix_fallocate, [calls]

    def fallocate(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    with pytest.raises(
        CatalogueError, match=r"index: cannot be written: No space left on device; free space on the disk, or set index"
    ):
        build_official(data, Options(index=tmp_path / "index"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".index.nouns", "data", "index.lock"]
    monkeypatch.setattr(os, "posix_fallocate", reserve)
    assert len(open_catalogue(Options(data=data, index=tmp_path / "index"))) == 300


def test_a_full_disk_ends_no_build_with_a_signal(tmp_path, data):
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, to mount a small disk")
    (tmp_path / "disk").mkdir()
    taken = [str(kilobytes) for kilobytes in (1000, 800, 600, 500, 450, 400, 350, 300, 250, 200, 150, 100, 50, 0)]
    command = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", ON_A_SMALL_DISK]
    done = subprocess.run(
        [*command, data, tmp_path / "disk", *taken],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("a small disk cannot be mounted")
    assert done.returncode == 0, done.stderr
    *full, complete = done.stdout.splitlines()
    assert full
    assert all("No space left on device; free space" in line for line in full)
    assert all(line.endswith("['.index.nouns', 'index.lock', 'taken']") for line in full[1:])
    assert complete.endswith(" 300")


# ---- folders that cannot be read, links ------------------------------------------------------------------------------


def test_a_folder_of_data_that_cannot_be_read_is_named(data, make_unreadable):
    make_unreadable(data)
    with pytest.raises(CatalogueError, match=r"data: cannot be read: Permission denied; let the user"):
        find_files(data, "synthetic")


def test_a_folder_of_an_index_that_cannot_be_read_is_named(tmp_path, data, make_unreadable):
    index = build_official(data, Options(index=tmp_path / "index"))
    make_unreadable(index)
    with pytest.raises(CatalogueError, match=r"index: cannot be read: Permission denied; let the user"):
        open_catalogue(Options(index=index))


@pytest.mark.parametrize("name", ["x" * 300, "link"])
def test_a_name_of_data_that_no_folder_can_have_is_named(tmp_path, name):
    (tmp_path / "link").symlink_to(tmp_path / "link")
    with pytest.raises(CatalogueError, match=rf"{name}: (cannot be read: File name too long|no such folder)"):
        open_catalogue(Options(data=tmp_path / name))


@pytest.mark.parametrize("exists", [True, False])
def test_an_index_can_be_a_link_to_a_folder(tmp_path, data, exists):
    target, link = tmp_path / "elsewhere" / "index", tmp_path / "link"
    if exists:
        target.mkdir(parents=True)
    link.symlink_to(target)
    catalogue = open_catalogue(Options(data=data, index=link))
    assert link.is_symlink()
    assert (target / "meta.json").is_file()
    assert open_catalogue(Options(index=link)).version == catalogue.version


# ---- other versions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 0}, "has format 0, and this version reads format 1; delete the folder and build it again"),
        (
            {"format": 2, "products": None, "new": 1},
            r"has format 2, and this version reads format 1; delete the folder",
        ),
        ({"products": "many"}, "is damaged .*build it again"),
        ({"key": "of another version"}, "another version; delete this folder, or set index"),
    ],
)
def test_an_index_of_another_version_is_named_with_the_fix(tmp_path, data, change, message):
    index = build_official(data, Options(index=tmp_path / "index"))
    meta = json.loads((index / "meta.json").read_text()) | change
    (index / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(CatalogueError, match=message):
        open_catalogue(Options(data=data, index=index))


def test_an_index_that_other_rules_of_reading_have_built_is_not_used(tmp_path, monkeypatch, data):
    index = build_official(data, Options(index=tmp_path / "index"))
    monkeypatch.setattr(open_module, "READER", open_module.READER + 1)
    with pytest.raises(CatalogueError, match="another version; delete this folder"):
        build_official(data, Options(index=index))


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, data):
    def flock(handle, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(build_module.fcntl, "flock", flock)
    with pytest.raises(CatalogueError, match=r"index: cannot be written: No locks available; set index"):
        build_official(data, Options(index=tmp_path / "index"))


def test_a_second_builder_says_that_it_waits(tmp_path, monkeypatch):
    target, ended, said = tmp_path / "index", threading.Event(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)

    def wait():
        with build_module.locked(target):
            ended.set()

    with build_module.locked(target):
        second = threading.Thread(target=wait)
        second.start()
        while not said.getvalue().endswith("\n"):
            time.sleep(0.01)
        assert not ended.is_set()
    second.join(10)
    assert ended.is_set()
    assert said.getvalue() == f"waiting for another process that builds {target}\n"
