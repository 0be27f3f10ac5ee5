"""Compressed deltas between two safetensors files, for sending weights over a network.

A delta describes a new file by its differences from a base file. `apply_delta` restores the new file byte for byte. The
caller compares the checksum of the restored file with the manifest (the list of a version's files). This is the format
of a delta:

    header of the new file, unchanged | for each tensor in file order: kind (1 byte), length (8 bytes), payload

The payload depends on whether the base has a tensor of the same name, type and shape. If it has, the bit patterns of
both tensors are read as integers, and the payload is their difference. The difference is zigzag-coded, its bytes are
grouped by significance, and zstd compresses the result. A small optimiser step changes only the low bits, so the high
bytes are zeros. An unchanged tensor takes 9 bytes. If the base has no such tensor, the payload is the compressed new
tensor.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import zstandard

from arlarena.proto.versions.directory import read_safetensors_header

SAME, DIFFERENCE, WHOLE = 0, 1, 2  # kinds of payload: none, the difference, the new tensor
LEVEL = 1  # zstd's level; a higher level is slower and saves little, because the low bits are noise
_FRAME = struct.Struct("<BQ")
_LENGTH = struct.Struct("<Q")
# Digits in the name of a type ("F32", "BF16", "I64") -> bytes per element. "F8_E4M3" and "BOOL" have one byte.
_WIDTHS = {"8": 1, "16": 2, "32": 4, "64": 8}


class DeltaError(ValueError):
    """A delta is truncated, is malformed, or belongs to another base file."""


def write_delta(base: Path, new: Path, out: BinaryIO) -> int:
    """Write the delta from the file `base` to the file `new` into `out`. Returns the delta's size in bytes.

    Processes one tensor after the other, so the largest tensor determines how much memory is used.

    Raises:
        SafetensorsError: `base` or `new` is not a safetensors file.
    """
    known, known_start = read_safetensors_header(base)
    header, start = read_safetensors_header(new)
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    with base.open("rb") as old_file, new.open("rb") as new_file:
        out.write(_LENGTH.pack(start) + new_file.read(start))
        written = _LENGTH.size + start
        for name, entry in _in_file_order(header):
            data = _read(new_file, start, entry)
            before = known.get(name)
            kind, payload = WHOLE, b""
            if before is not None and (before["dtype"], before["shape"]) == (entry["dtype"], entry["shape"]):
                old = _read(old_file, known_start, before)
                kind = SAME if old == data else DIFFERENCE
                if kind == DIFFERENCE:
                    payload = compressor.compress(_difference(old, data, _width(entry["dtype"])))
            else:
                payload = compressor.compress(data)
            out.write(_FRAME.pack(kind, len(payload)) + payload)
            written += _FRAME.size + len(payload)
    return written


def apply_delta(base: Path, delta: Path, target: Path, size: int) -> None:
    """Restore the new file from the files `base` and `delta`, and write it to the file `target`.

    `size`: the new file's size in bytes, from the manifest. Never writes more than `size` bytes.

    Raises:
        DeltaError: the delta is truncated, is malformed, or belongs to another base or to a file of another size.
        SafetensorsError: `base` is not a safetensors file.
    """
    known, known_start = read_safetensors_header(base)
    delta_size = delta.stat().st_size
    with base.open("rb") as old_file, delta.open("rb") as source, target.open("wb") as out:
        header = _copy_header(source, out, target, delta_size, size)
        for name, entry in _in_file_order(header):
            kind, payload_bytes = _FRAME.unpack(_exactly(source, _FRAME.size))
            if payload_bytes > delta_size:
                raise DeltaError(f"{delta} announces {payload_bytes} bytes of {name}, but has only {delta_size} bytes")
            payload = _exactly(source, payload_bytes)
            length = entry["data_offsets"][1] - entry["data_offsets"][0]
            if kind == WHOLE:
                out.write(_expand(payload, length, name))
                continue
            before = known.get(name)
            if before is None or (before["dtype"], before["shape"]) != (entry["dtype"], entry["shape"]):
                raise DeltaError(f"the delta changes {name}, but {base} has no {name} with this type and shape")
            old = _read(old_file, known_start, before)
            if len(old) != length:
                raise DeltaError(f"the delta changes {name}, but {base} has {len(old)} bytes of it instead of {length}")
            if kind == DIFFERENCE:
                out.write(_sum(old, _expand(payload, length, name), _width(entry["dtype"])))
            elif kind == SAME:
                out.write(old)
            else:
                raise DeltaError(f"the delta has an entry of unknown kind {kind} for {name}")


def _copy_header(source: BinaryIO, out: BinaryIO, target: Path, delta_size: int, size: int) -> dict[str, Any]:
    """Copy the new file's header from the delta `source` to the new file `out`. Returns the parsed header.

    A small delta can describe a huge file. This function therefore compares the sizes before any tensor is written.

    Raises:
        DeltaError: the delta is truncated, or the header describes a file whose size is not `size`.
    """
    (start,) = _LENGTH.unpack(_exactly(source, _LENGTH.size))
    if start > min(size, delta_size):
        raise DeltaError(
            f"the delta announces a header of {start} bytes; the delta has {delta_size} bytes, the new file {size}"
        )
    out.write(_exactly(source, start))
    out.flush()
    header = _header_of(target, start)
    described = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if described != size:
        raise DeltaError(f"the delta describes a file of {described} bytes, but the manifest lists {size} bytes")
    return header


def _header_of(file: Path, start: int) -> dict[str, Any]:
    """Returns the parsed header of `file`. The file can end after the header. `start`: size of the header in bytes."""
    return read_safetensors_header(file, whole=False)[0] if start >= _LENGTH.size else {}


def _in_file_order(header: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(header.items(), key=lambda item: (item[1]["data_offsets"][0], item[0]))


def _read(file: BinaryIO, start: int, entry: dict[str, Any]) -> bytes:
    begin, end = entry["data_offsets"]
    file.seek(start + begin)
    return file.read(end - begin)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise DeltaError(f"the delta is truncated: it has {len(data)} of the next {size} bytes")
    return data


def _expand(payload: bytes, size: int, name: str) -> bytes:
    try:
        # A payload can announce the size of its content (-1: it does not). zstandard then allocates memory of this size
        # and ignores `max_output_size`, so check the announced size first.
        if payload and (announced := zstandard.frame_content_size(payload)) not in (size, -1):
            raise DeltaError(f"the delta's bytes of {name} announce {announced} bytes instead of {size}")
        data = zstandard.ZstdDecompressor().decompress(payload, max_output_size=size) if size else b""
    except zstandard.ZstdError as error:
        raise DeltaError(f"the delta's bytes of {name} cannot be decompressed: {error}") from error
    if len(data) != size:
        raise DeltaError(f"the delta has {len(data)} bytes of {name} instead of {size}")
    return data


def _width(dtype: str) -> int:
    return _WIDTHS.get("".join(c for c in dtype if c.isdigit()), 1) if "_" not in dtype else 1


def _difference(old: bytes, new: bytes, width: int) -> bytes:
    """Returns the zigzag-coded difference `new` - `old`. Its bytes are grouped by significance (byte planes).

    `old`, `new`: the bytes of two tensors with equal length. `width`: bytes per element.
    """
    kind = np.dtype(f"<u{width}")
    moved = np.frombuffer(new, kind) - np.frombuffer(old, kind)  # modulo 2 ** bits
    folded = (moved << kind.type(1)) ^ (kind.type(0) - (moved >> kind.type(8 * width - 1)))
    return np.ascontiguousarray(folded.view(np.uint8).reshape(-1, width).T).tobytes()


def _sum(old: bytes, planes: bytes, width: int) -> bytes:
    """Returns the bytes of the new tensor: the inverse of `_difference`. `planes`: the result of `_difference`."""
    kind = np.dtype(f"<u{width}")
    rows = np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(width, -1).T)
    folded: npt.NDArray[Any] = rows.view(kind).reshape(-1)
    moved = (folded >> kind.type(1)) ^ (kind.type(0) - (folded & kind.type(1)))
    new: npt.NDArray[Any] = np.frombuffer(old, kind) + moved
    return new.tobytes()
