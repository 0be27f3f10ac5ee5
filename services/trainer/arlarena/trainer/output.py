"""Writes the output folder of a command atomically, and never overwrites files of other programs.

    with atomic_folder(Path("policy"), {"kind": "tiny"}) as folder:
        model.save_pretrained(folder)

The folder contains `arlarena.json`. This file lists the files that the command wrote. An existing folder is replaced
only if the folder is empty, or contains only files that its `arlarena.json` lists.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from arlarena.proto.config import ConfigError

MARKER = "arlarena.json"


def check_output(
    out: Path, *, apart: Mapping[str, Path] | None = None, outside: Mapping[str, Path] | None = None
) -> None:
    """Check that a command can write the folder `out` without damage to other files. Changes nothing.

    Two folders overlap if they are equal or one of them is inside the other.

    Args:
        out: the folder to write.
        apart: maps command-line options, such as `--model`, to folders. `out` must not overlap these folders.
        outside: maps command-line options to files and folders. None of them may be `out` or inside `out`.

    Raises:
        ConfigError: `out` violates one of these rules, is a file or a mount point, or contains files that its
            `arlarena.json` does not list.
    """
    place = out.resolve()
    for flag, path in {**(apart or {}), **(outside or {})}.items():
        other = path.resolve()
        if place == other or place in other.parents or (flag in (apart or {}) and other in place.parents):
            raise ConfigError(f"--out {out} overlaps {flag} {path}: give another folder")
    if place.exists() and not place.is_dir():
        raise ConfigError(f"--out {out} is a file: give a folder")
    if os.path.ismount(place):
        raise ConfigError(f"--out {out} is a mount point and cannot be replaced: give a folder in the mount point")
    if place.is_dir() and (unknown := _unknown_entries(place)):
        names = ", ".join([*unknown[:3], *(["…"] if unknown[3:] else [])])
        raise ConfigError(f"--out {out} contains files that this command did not write ({names}): give another folder")


def _unknown_entries(folder: Path) -> list[str]:
    """Return the sorted names of all folders in `folder`, and of the files that `arlarena.json` does not list."""
    try:
        written = {MARKER, *json.loads((folder / MARKER).read_bytes())["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        written = set()
    return sorted(entry.name for entry in folder.iterdir() if entry.name not in written or entry.is_dir())


@contextlib.contextmanager
def atomic_folder(out: Path, record: Mapping[str, Any]) -> Iterator[Path]:
    """Create a temporary folder in the parent of `out`, and yield the folder.

    At the end of the `with` block, write `record` and the list of the files to `arlarena.json` in the folder, and
    rename the folder to `out`. After an exception, delete the temporary folder.

    Raises:
        ConfigError: `out` is a file, a mount point, or a folder with files that its `arlarena.json` does not list.
    """
    check_output(out)
    place = out.resolve()
    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        yield partial
        files = sorted(file.name for file in partial.iterdir())
        (partial / MARKER).write_text(json.dumps({**record, "files": files}) + "\n")
        check_output(out)  # `out` may have changed in the meantime
        _replace(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(partial: Path, place: Path) -> None:
    old = partial.with_name(partial.name + ".old")
    if place.exists():
        place.rename(old)
    try:
        partial.rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)
