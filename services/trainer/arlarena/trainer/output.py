"""A folder that a command writes at a path which the user gives: whole or not at all, and never over other files.

    with whole_folder(Path("policy"), {"kind": "tiny"}) as folder:
        model.save_pretrained(folder)

The folder holds `arlarena.json`, which lists the files that the command wrote. A folder that exists is replaced only if
it is empty, or holds these files and no other.
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
    """Whether a command may write the folder `out`.

    `apart`: folders, by flag, that `out` may not be, lie in, or hold. `outside`: files and folders that `out` may not
    be or hold.

    Raises:
        ConfigError: it may not; nothing was changed.
    """
    place = out.resolve()
    for flag, path in {**(apart or {}), **(outside or {})}.items():
        other = path.resolve()
        if place == other or place in other.parents or (flag in (apart or {}) and other in place.parents):
            raise ConfigError(f"--out {out} overlaps {flag} {path}: give another folder")
    if place.exists() and not place.is_dir():
        raise ConfigError(f"--out {out} is a file: give a folder")
    if os.path.ismount(place):
        raise ConfigError(f"--out {out} is a mount point, which cannot be replaced: give a folder in it")
    if place.is_dir() and (strange := _strange(place)):
        names = ", ".join([*strange[:3], *(["…"] if strange[3:] else [])])
        raise ConfigError(
            f"--out {out} is not empty, and this command did not write what is in it ({names}): give another folder"
        )


def _strange(folder: Path) -> list[str]:
    """What `folder` holds and its record does not list, sorted."""
    try:
        written = {MARKER, *json.loads((folder / MARKER).read_bytes())["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        written = set()
    return sorted(entry.name for entry in folder.iterdir() if entry.name not in written or entry.is_dir())


@contextlib.contextmanager
def whole_folder(out: Path, record: Mapping[str, Any]) -> Iterator[Path]:
    """A new folder beside `out` to write files in; it becomes `out` at the end of the block, with `record` in it.

    Raises:
        ConfigError: see `check_output`.
    """
    check_output(out)
    place = out.resolve()
    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        yield partial
        files = sorted(file.name for file in partial.iterdir())
        (partial / MARKER).write_text(json.dumps({**record, "files": files}) + "\n")
        check_output(out)  # it may have changed since
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
