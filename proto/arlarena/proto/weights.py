"""A version directory: an ordinary Hugging Face directory, `manifest.json`, and an empty `COMMITTED` written last.

    <run>/weights/v000012-0a1b2c3d4e5f/
        config.json  model.safetensors  tokenizer.json  ...   what any engine loads
        manifest.json                                         the policy version, checksums and sizes
        COMMITTED                                             its presence says that everything before it is complete

The trainer writes such directories and the policy server reads them. Nothing here needs torch: the digest of the
weights is computed from the safetensors bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

MANIFEST_FILE = "manifest.json"
COMMITTED_FILE = "COMMITTED"
WEIGHTS_FILE = "model.safetensors"
MANIFEST_SCHEMA = 1


class ManifestVersion(msgspec.Struct, frozen=True):
    """The policy version of a directory; see `trajectory.PolicyVersion`."""

    incarnation: str
    step: int
    digest: str


class ManifestFile(msgspec.Struct, frozen=True):
    """Checksum and size of one file."""

    sha256: str
    bytes: int


class Manifest(msgspec.Struct, frozen=True):
    """`manifest.json` of a version directory; every file but itself and the marker is listed."""

    version: ManifestVersion
    files: dict[str, ManifestFile]
    schema: int = MANIFEST_SCHEMA


def version_directory_name(step: int, digest: str) -> str:
    """`v000012-0a1b2c3d4e5f`: sorts by step."""
    return f"v{step:06d}-{digest[:12]}"


def file_sha256(path: Path, chunk: int = 1 << 20) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(chunk):
            digest.update(data)
    return digest.hexdigest()


def tensors_digest(tensors: Iterable[tuple[str, str, tuple[int, ...], bytes | memoryview]]) -> str:
    """Hex BLAKE2b-128 of named tensors, whatever their order.

    Each tensor is (name, dtype as safetensors writes it, for example "F32", shape, little-endian row-major bytes). The
    digest names a policy: directories with equal tensors have equal digests, whatever else is in the files.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, dtype, shape, data in sorted(tensors, key=lambda tensor: tensor[0]):
        digest.update(f"{name}\0{dtype}\0{'x'.join(map(str, shape))}\0".encode())
        digest.update(data)
    return digest.hexdigest()


class SafetensorsError(ValueError):
    """A file that is not safetensors, or is cut short."""


def read_safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header (tensor name -> dtype, shape, data_offsets) and the offset at which the data begin.

    Raises:
        SafetensorsError: the file is cut short or holds something else.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise SafetensorsError(f"{path}: {size} bytes cannot hold the header that it announces")
        try:
            header = msgspec.json.decode(file.read(length), type=dict[str, dict[str, Any]])
        except msgspec.MsgspecError as error:
            raise SafetensorsError(f"{path}: not a safetensors file: {error}") from error
    header.pop("__metadata__", None)
    try:
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise SafetensorsError(f"{path}: a tensor's entry in the header is malformed: {error!r}") from error
    if 8 + length + end != size:
        raise SafetensorsError(f"{path}: {size} bytes, but its header describes {8 + length + end}")
    return header, 8 + length


def safetensors_digest(*paths: Path) -> str:
    """`tensors_digest` of all tensors in one or more safetensors files (the shards of one model).

    Raises:
        SafetensorsError: a file is cut short or holds something else.
    """
    tensors: list[tuple[str, str, tuple[int, ...], bytes]] = []
    for path in paths:
        header, base = read_safetensors_header(path)
        with path.open("rb") as file:
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                file.seek(base + begin)
                tensors.append((name, entry["dtype"], tuple(entry["shape"]), file.read(end - begin)))
    return tensors_digest(tensors)
