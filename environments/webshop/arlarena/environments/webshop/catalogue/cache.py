"""Finds the folder of a built catalogue. If the folder is absent, the catalogue is built."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from arlarena.environment.hashing import digest
from arlarena.environments.webshop.catalogue.build import FORMAT, Meta, locked, unwritable
from arlarena.environments.webshop.catalogue.json_stream import unreadable
from arlarena.environments.webshop.catalogue.store import read_meta
from arlarena.environments.webshop.errors import CatalogueError
from arlarena.environments.webshop.search.index import COMMON, K1, TOP, B
from arlarena.environments.webshop.settings import index_cache


def key_of_files(files: Iterable[Path], *options: object) -> str:
    """Return the key of a catalogue: a hash of the format, the constants of the index, the options, and the name, size
    and modification time of each file.

    Raises:
        CatalogueError: a file cannot be read.
    """
    facts: list[object] = [FORMAT, K1, B, TOP, COMMON, *options]
    for path in files:
        try:
            found = path.stat()
        except OSError as error:
            raise unreadable(path, error) from error
        facts += [path.name, found.st_size, found.st_mtime_ns]
    return digest(repr(facts))


def folder_of(index: Path | None, key: str) -> Path:
    """Return the folder of a catalogue: the option `index`. Without this option, return the folder `key` in the user's
    cache. Symbolic links are followed, because a build replaces the folder itself.
    """
    return Path(os.path.realpath(index.expanduser() if index else index_cache() / key))


def has_meta(folder: Path) -> bool:
    """Return whether the folder is an index: whether it has the file meta.json.

    Raises:
        CatalogueError: the folder cannot be read.
    """
    try:
        return (folder / "meta.json").is_file()
    except OSError as error:
        raise _unreadable(folder, error) from error


def is_built(folder: Path, key: str) -> bool:
    """Return whether the folder has the catalogue of this key.

    Raises:
        CatalogueError: the folder has another catalogue, a damaged catalogue, or other files.
    """
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return False
    except OSError as error:
        raise _unreadable(folder, error) from error
    if not has_meta(folder):
        raise CatalogueError(
            f"{folder}: has other files, but no meta.json, so it is not an index; set index (or --index) to another "
            "folder"
        )
    if read_meta(folder).key != key:
        raise CatalogueError(
            f"{folder}: was built from other files, with other options or by another version; delete this folder, or "
            "set index (or --index) to another folder"
        )
    return True


def ensure_built(folder: Path, key: str, build: Callable[[Path], Meta]) -> bool:
    """Build the folder if it is absent. Return whether this call built the folder. If several processes call this
    function, one process builds the folder, and the others wait.

    Raises:
        CatalogueError: the folder has other content, it cannot be read or written, or `build` raises this error.
    """
    if is_built(folder, key):
        return False
    with locked(folder):
        if is_built(folder, key):
            return False
        try:
            build(folder)
        except OSError as error:
            raise unwritable(folder, error) from error
    return True


def _unreadable(folder: Path, error: OSError) -> CatalogueError:
    fix = "let the user of this process read the folder, or set index (or --index) to another folder"
    return CatalogueError(f"{folder}: cannot be read: {error.strerror}; {fix}")
