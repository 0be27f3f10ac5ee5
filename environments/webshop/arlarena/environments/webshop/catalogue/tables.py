"""Tables in memory-mapped files: records, sorted texts and arrays. All parts of a catalogue's folder use these tables.

A table of records has two files. NAME.bin has the records as msgpack, one after another. NAME_offsets.npy has the
position in bytes at which each record begins, and the end of the last record. A table of sorted texts has the same two
files, with texts instead of records. Processes share the pages of mapped files.
"""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike, NDArray

from arlarena.environments.webshop.errors import CatalogueError

Record = TypeVar("Record")
Part = TypeVar("Part")
REBUILD = "delete the folder and build it again: python -m arlarena.environments.webshop build"


def damaged(path: Path, problem: str) -> CatalogueError:
    """Return the error for a damaged file of a built folder."""
    return CatalogueError(f"{path}: {problem}; {REBUILD}")


def create_array(folder: Path, name: str, kind: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Create NAME.npy, filled with zeros, and map it into memory for writing.

    The space on the disk is reserved first. Without this, a write to the mapped file would end the process with the
    signal SIGBUS if the disk is full.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    path = folder / f"{name}.npy"
    if 0 in shape:  # an empty array cannot be mapped
        empty = np.zeros(shape, kind)
        np.save(path, empty, allow_pickle=False)
        return empty
    array: NDArray[Any] = open_memmap(path, mode="w+", dtype=kind, shape=shape)  # type: ignore[no-untyped-call, unused-ignore]
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def write_array(folder: Path, name: str, values: NDArray[Any]) -> None:
    """Write NAME.npy.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    create_array(folder, name, values.dtype, values.shape)[...] = values


def open_array(folder: Path, name: str, kind: type[np.generic], dimensions: int = 1) -> NDArray[Any]:
    """Map NAME.npy into memory, read-only.

    Raises:
        CatalogueError: the file is missing or truncated, or its array has another type or other dimensions.
    """
    path = folder / f"{name}.npy"
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise damaged(path, error.strerror or "cannot be read") from error
    except (ValueError, EOFError) as error:
        if (empty := _empty_array(path, kind, dimensions)) is not None:
            return empty
        raise damaged(path, "is truncated or no array") from error
    if array.dtype != kind or array.ndim != dimensions:
        raise damaged(path, f"has the wrong type ({array.dtype}, {array.ndim} dimensions)")
    return np.asarray(array)


def _empty_array(path: Path, kind: type[np.generic], dimensions: int) -> NDArray[Any] | None:
    """Read an array without elements, because such an array cannot be mapped. Return None if the file has other
    content.
    """
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.size == 0 and array.dtype == kind and array.ndim == dimensions else None


class _Blobs:
    """Byte strings in NAME.bin."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.bin"
        self._offsets = open_array(folder, f"{name}_offsets", np.int64)
        self._bytes = self._map()
        if not len(self._offsets) or self._offsets[-1] != len(self._bytes) or self._offsets[0]:
            expected = int(self._offsets[-1]) if len(self._offsets) else 0
            raise damaged(self.path, f"has {len(self._bytes)} bytes instead of {expected}")

    def _map(self) -> mmap.mmap | bytes:
        try:
            with self.path.open("rb") as file:
                if not file.seek(0, 2):
                    return b""  # an empty file cannot be mapped
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise damaged(self.path, error.strerror or "cannot be read") from error

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> bytes:
        return self._bytes[self._offsets[number] : self._offsets[number + 1]]


class BlobWriter:
    """Writes byte strings to NAME.bin. `close` writes the offsets."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._file = (folder / f"{name}.bin").open("wb")
        self._offsets = array("q", [0])

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def append(self, blob: bytes) -> None:
        """Append a byte string."""
        self._file.write(blob)
        self._offsets.append(self._offsets[-1] + len(blob))

    def close(self) -> None:
        """Close the file and write the offsets."""
        self._file.close()
        write_array(self._folder, f"{self._name}_offsets", np.array(self._offsets, np.int64))


class RecordTable(Generic[Record]):
    """Records of one type, by number. Thread-safe."""

    def __init__(self, folder: Path, name: str, kind: type[Record]) -> None:
        """Open a table.

        Raises:
            CatalogueError: a file is missing or damaged.
        """
        self._blobs = _Blobs(folder, name)
        self._decoder = msgspec.msgpack.Decoder(kind)

    def __len__(self) -> int:
        return len(self._blobs)

    def __getitem__(self, number: int) -> Record:
        """Return a record.

        Raises:
            IndexError: there is no such record.
            CatalogueError: the record is damaged.
        """
        return self.decoded(number, self._decoder)

    def decoded(self, number: int, decoder: msgspec.msgpack.Decoder[Part]) -> Part:
        """Return a record as decoded by another decoder, such as a decoder that reads only a few fields.

        Raises:
            IndexError: there is no such record.
            CatalogueError: the record is damaged.
        """
        if not 0 <= number < len(self._blobs):
            raise IndexError(number)
        try:
            return decoder.decode(self._blobs[number])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise damaged(self._blobs.path, f"record {number} is damaged") from error


class SortedTexts:
    """Texts in the order of their UTF-8 bytes, found by binary search. Thread-safe."""

    def __init__(self, folder: Path, name: str) -> None:
        """Open a table.

        Raises:
            CatalogueError: a file is missing or damaged.
        """
        self._blobs = _Blobs(folder, name)

    def __len__(self) -> int:
        return len(self._blobs)

    def find(self, text: str) -> int | None:
        """Return the position of a text. Return None if the table does not contain the text."""
        wanted = text.encode("utf-8", "surrogatepass")
        low, high = 0, len(self._blobs)
        while low < high:
            middle = (low + high) // 2
            if self._blobs[middle] < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self._blobs) and self._blobs[low] == wanted else None


def write_sorted_texts(folder: Path, name: str, texts: Iterable[bytes]) -> None:
    """Write a table of texts, given as UTF-8 in ascending order."""
    writer = BlobWriter(folder, name)
    for text in texts:
        writer.append(text)
    writer.close()
