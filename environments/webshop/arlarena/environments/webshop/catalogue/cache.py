"""Finds the folder of a built catalogue. If the folder is absent, the catalogue is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from arlarena.environment.hashing import digest
from arlarena.environments.webshop.catalogue.build import FORMAT, Meta, locked
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
            raise CatalogueError(f"{path}: cannot be read: {error.strerror}") from error
        facts += [path.name, found.st_size, found.st_mtime_ns]
    return digest(repr(facts))


def folder_of(index: Path | None, key: str) -> Path:
    """Return the folder of a catalogue: the option `index`, or else the folder with the key's name in the user's
    cache.
    """
    return index.expanduser() if index else index_cache() / key


def is_built(folder: Path, key: str) -> bool:
    """Return whether the folder has the catalogue of this key.

    Raises:
        CatalogueError: the folder has another catalogue, a damaged catalogue, or other files.
    """
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return False
    except OSError as error:
        raise CatalogueError(f"{folder}: cannot be read: {error.strerror}") from error
    if not (folder / "meta.json").is_file():
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
    """Build the folder if it is absent. Return whether this call built it. If several processes call this function, one
    of them builds, and the others wait.

    Raises:
        CatalogueError: see `is_built`, `locked` and `build`.
    """
    if is_built(folder, key):
        return False
    with locked(folder):
        if is_built(folder, key):
            return False
        try:
            build(folder)
        except OSError as error:
            raise CatalogueError(f"{folder}: cannot be written: {error.strerror}") from error
    return True
