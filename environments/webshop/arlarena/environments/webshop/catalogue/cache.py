"""Finds the folder of a built catalogue, and builds it if it is absent."""

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
    """Return the key of a catalogue: it changes with the format of the folder, the constants of the index, the options,
    and the name, size or time of change of a file.

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
    """Return the folder of a catalogue: the option `index`, or a folder in the user's cache by the key."""
    return index.expanduser() if index else index_cache() / key


def is_built(folder: Path, key: str) -> bool:
    """Return whether the folder has the catalogue of this key.

    Raises:
        CatalogueError: it has another catalogue, a damaged one, or other files.
    """
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return False
    except OSError as error:
        raise CatalogueError(f"{folder}: cannot be read: {error.strerror}") from error
    if not (folder / "meta.json").is_file():
        raise CatalogueError(f"{folder}: has other files, and no meta.json of an index; name another folder as index")
    if read_meta(folder).key != key:
        raise CatalogueError(
            f"{folder}: was built from other files, with other options or by another version; name another folder as "
            "index, or delete this one"
        )
    return True


def ensure_built(folder: Path, key: str, build: Callable[[Path], Meta]) -> bool:
    """Build the folder if it is absent. Returns whether it was built. One process builds; others wait for it.

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
