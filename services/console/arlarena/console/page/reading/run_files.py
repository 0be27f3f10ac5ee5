"""Opens files of a run directory for reading.

The directory is untrusted, because another user or a container may have written it. Therefore a file's name must not
contain ".." or a symbolic link. Only regular files are opened. Every read has a maximum size.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# Maximum size in bytes of a file that is read as one piece, such as config.toml or summary.json.
SMALL_FILE_BYTES = 16 << 20
# Maximum size of a record in bytes. A record is a group, or a line of an episodes file.
RECORD_BYTES = 64 << 20
# Maximum number of entries that are read from a folder.
MAX_FILES = 100_000


class DamagedFile(Exception):
    """A file of a run cannot be read. The message contains the file's name and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


@dataclass(frozen=True, slots=True)
class FileState:
    """A file of a run. If `inode` changes, the file was replaced. If only `size` grows, data was appended."""

    name: str
    inode: int
    size: int
    mtime: float


class BoundedFiles:
    """The files of one run directory. Names are relative to the directory, with `/` between components."""

    def __init__(self, root: Path) -> None:
        """`root` may be a link, because the user chose it."""
        self.root = root.resolve()

    def open(self, name: str) -> BinaryIO | None:
        """Open a file. Returns None if it does not exist.

        Raises:
            DamagedFile: `name` contains ".." or a symbolic link, or the file is not a regular file or cannot be read.
        """
        parts = name.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise DamagedFile(name, "the name is not permitted")
        try:
            handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for part in parts[:-1]:
                handle = self._enter(handle, part)
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not block
                file = os.open(parts[-1], flags, dir_fd=handle)
            finally:
                os.close(handle)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedFile(name, _reason(error)) from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise DamagedFile(name, "not a regular file")
        return os.fdopen(file, "rb")

    @staticmethod
    def _enter(handle: int, part: str) -> int:
        try:
            return os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
        finally:
            os.close(handle)

    def read(self, name: str, max_bytes: int = SMALL_FILE_BYTES) -> bytes | None:
        """Returns the content of a file, or None if the file does not exist.

        Raises:
            DamagedFile: the file has more than `max_bytes` bytes, or cannot be read.
        """
        if (file := self.open(name)) is None:
            return None
        with file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise DamagedFile(name, f"more than {max_bytes} bytes")
        return data

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        """Returns `size` bytes of a file from `offset`.

        Raises:
            DamagedFile: `size` is above `RECORD_BYTES`, or the file is missing or too short.
        """
        if not 0 <= size <= RECORD_BYTES:
            raise DamagedFile(name, f"a record of {size} bytes is above the limit of {RECORD_BYTES} bytes")
        if (file := self.open(name)) is None:
            raise DamagedFile(name, "the file no longer exists")
        with file:
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise DamagedFile(name, "the file has become shorter")
        return data

    def tail(self, name: str, max_bytes: int) -> bytes:
        """Returns the last `max_bytes` bytes of a file, without an incomplete first line.

        Returns b"" if the file does not exist.
        """
        if (file := self.open(name)) is None:
            return b""
        with file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - max_bytes))
            data = file.read(max_bytes)
        return data.partition(b"\n")[2] if size > max_bytes else data

    def state(self, name: str) -> FileState | None:
        """Returns the state of a file, or None if there is no such regular file."""
        try:
            found = os.stat(self.root / name, follow_symlinks=False)
        except OSError:
            return None
        return _state(name, found) if stat.S_ISREG(found.st_mode) else None

    def list(self, folder: str, suffix: str) -> list[FileState]:
        """Returns the regular files in `folder` with names that end with `suffix`, sorted by name.

        Hidden files are left out. Returns [] if the folder does not exist.
        """
        try:
            if stat.S_ISLNK(os.lstat(self.root / folder).st_mode):
                return []
            return sorted(self._entries(folder, suffix), key=lambda file: file.name)
        except OSError:
            return []

    def _entries(self, folder: str, suffix: str) -> Iterator[FileState]:
        with os.scandir(self.root / folder) as entries:
            for number, entry in enumerate(entries):
                if number >= MAX_FILES:
                    return
                if entry.name.endswith(suffix) and not entry.name.startswith("."):
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except OSError:  # deleted in the meantime
                        continue
                    if stat.S_ISREG(found.st_mode):
                        yield _state(f"{folder}/{entry.name}", found)


def _state(name: str, found: os.stat_result) -> FileState:
    return FileState(name, found.st_ino, found.st_size, found.st_mtime)


def _reason(error: OSError) -> str:
    return "a symbolic link" if error.errno == 40 else error.strerror or type(error).__name__
