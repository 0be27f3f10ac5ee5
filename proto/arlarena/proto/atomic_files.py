"""Writes files atomically: a reader sees either the old or the new content.

    write_json(run / "summary.json", summary)

The functions write the content to a hidden file in the folder of `path`, and then rename the hidden file to `path`. If
an error occurs before the renaming, `path` keeps its old content.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec


@contextmanager
def open_atomic(path: Path, *, private: bool = False, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a hidden file for writing. At the end of the `with` block, the hidden file replaces the file `path`.

    If the block raises an exception, the hidden file is deleted, and `path` does not change.

    Args:
        path: the file to create or replace. Its folder must exist.
        private: if true, only the owner can read the file (mode 0600).
        durable: if true, the file and its folder are synced to disk, so that the file survives a power failure.

    Raises:
        OSError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)  # a killed process with the same pid may have left this file
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if private else 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        fsync_path(path.parent)


def write_bytes(path: Path, data: bytes, *, private: bool = False, durable: bool = False) -> None:
    """Write `data` to the file `path` atomically. For `private`, `durable` and the errors, see `open_atomic`."""
    with open_atomic(path, private=private, durable=durable) as file:
        file.write(data)


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write `text` in UTF-8 to the file `path` atomically. For `private` and the errors, see `open_atomic`."""
    write_bytes(path, text.encode(), private=private)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to the file `path` atomically. Raises the errors of `open_atomic`."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def fsync_path(path: Path) -> None:
    """Sync a file or a directory to disk. After a sync of the directory, its new file names survive a power failure.

    Raises:
        OSError: `path` does not exist, or the disk failed.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
