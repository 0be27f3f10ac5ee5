"""The format of version directories. A version directory contains the weights of one policy version.

    <run>/weights/v000012-0a1b2c3d4e5f/
        config.json  model.safetensors  tokenizer.json  ...   loaded by any engine
        manifest.json                                         the policy version, checksums, sizes and a probe
        COMMITTED                                             empty, written last; marks the directory as complete

The trainer writes version directories, and the policy server reads them. `WEIGHTS_ROUTE` transfers version directories.
A probe is a test of a policy server: the server computes the log-probs of a few tokens and compares them with the
trainer's log-probs. The digest of the weights is computed from the safetensors bytes, so this module does not need
torch. In a transfer, the sender and the receiver each hash a large model twice, so they use the fast hash BLAKE3.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec
from blake3 import blake3

MANIFEST_FILE = "manifest.json"
COMMITTED_FILE = "COMMITTED"
WEIGHTS_FILE = "model.safetensors"
MANIFEST_SCHEMA = 2
DIGEST_BYTES = 16

# The routes for weights. PUT and POST need the admin token:
#   PUT  /weights/{directory}                    Manifest of a new version            -> PushTarget
#   PUT  /weights/{directory}/{file}?base=DIR    a file, or its delta from DIR's file -> {}
#   POST /serve_weights                          ServeWeights: serve a version        -> ServedVersion
#   GET  /weight_info                            WeightInfo, a route of vLLM
WEIGHTS_ROUTE, SERVE_ROUTE = "/weights", "/serve_weights"

# The time limit of a request that pushes a version has two parts: `_BASE_S` for the inference engine, and the time for
# the bytes on a disk or network with `_SLOWEST_BYTES_PER_S`.
_SLOWEST_BYTES_PER_S = 50e6
_BASE_S = 30.0


class ManifestVersion(msgspec.Struct, frozen=True):
    """The policy version in a version directory. `trajectory.PolicyVersion` describes the fields."""

    incarnation: str
    step: int
    digest: str


class ManifestFile(msgspec.Struct, frozen=True):
    """Checksum (hex BLAKE3) and size of one file."""

    blake3: str
    bytes: int


class ManifestProbe(msgspec.Struct, frozen=True):
    """Token ids, and their log-probs under the trainer's weights. A policy server compares its log-probs with them.

    `ids`: n token ids. `log_probs`: n - 1 values, the log-prob of each id after the first, given all earlier ids, in
    nats at temperature 1. `tolerance`: the largest permitted |Δ log-prob|.
    """

    ids: list[int]
    log_probs: list[float]
    tolerance: float


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of `manifest.json`. It lists all files of the version directory except itself and `COMMITTED`."""

    version: ManifestVersion
    files: dict[str, ManifestFile]
    schema: int
    probe: ManifestProbe | None = None

    @property
    def label(self) -> str:
        """The version as text, `incarnation:step:digest`."""
        version = self.version
        return f"{version.incarnation}:{version.step}:{version.digest}"

    @property
    def directory(self) -> str:
        """The name of the version directory, such as `v000012-0a1b2c3d4e5f`."""
        return version_directory_name(self.version.step, self.version.digest)

    @property
    def bytes(self) -> int:
        """The total size of the files, in bytes."""
        return sum(entry.bytes for entry in self.files.values())


class PushTarget(msgspec.Struct, frozen=True):
    """A policy server's reply to a manifest. `files`: names of the files that the server needs.

    `base`: name of a version directory on the server. The client can send deltas from this version. None if the server
    needs complete files.
    """

    files: list[str]
    base: str | None = None


class Broadcast(msgspec.Struct, frozen=True):
    """A version and the trainer that sends it (the sender). It broadcasts the tensors with `torch.distributed`.

    `host`, `port`: the address of the sender's TCPStore. A policy server with W vLLM workers uses these keys of the
    store:
    `requests`             a counter; the first worker takes the next number n
    `request/{n}`          name of the process group, W + 1 and the version, separated by spaces
    `{group}/tensors`      the sender's reply in JSON: [[name, dtype, shape], ...], or a refusal as text
    `{group}/done/{rank}`  set by the worker of this rank (1 to W) after it has received all tensors
    `{group}` is the name of the process group. The sender (rank 0) and the workers form this group, over the store with
    the prefix `{group}`. The sender broadcasts the tensors in the order of its reply. It leaves the group when all
    workers have set their key `done`.
    """

    manifest: Manifest
    host: str
    port: int
    backend: Literal["nccl", "gloo"]


class ServeWeights(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Body of `/serve_weights`: the version to serve. Has no effect if the server already serves this version.

    `version`: text of a `PolicyVersion`. `broadcast`: the source of the tensors. If it is None, the server loads the
    weights from its version directories.
    """

    version: str
    broadcast: Broadcast | None = None


class ServedVersion(msgspec.Struct, frozen=True):
    """Response of `/serve_weights`. `probe`: the probe's largest |Δ log-prob|, None if the version has no probe."""

    version: str
    probe: float | None = None


def version_directory_name(step: int, digest: str) -> str:
    """Returns the name of a version directory, such as `v000012-0a1b2c3d4e5f`. Names sort by step."""
    return f"v{step:06d}-{digest[:12]}"


def push_limit_s(size: int) -> float:
    """Returns the time limit in seconds of each request that pushes a version of `size` bytes."""
    return _BASE_S + size / _SLOWEST_BYTES_PER_S


def largest_difference(probe: ManifestProbe, served: Iterable[float]) -> float:
    """Returns the largest |Δ log-prob| between a probe and a server. Returns infinity if a difference is NaN.

    `served`: the server's log-probs, one for each value of `probe.log_probs`.
    """
    differences = [abs(a - b) for a, b in zip(probe.log_probs, served, strict=True)]
    return max((d if d == d else float("inf") for d in differences), default=0.0)


def file_blake3(path: Path) -> str:
    """Returns the BLAKE3 hash of the file `path`, in hexadecimal digits."""
    return blake3().update_mmap(path).hexdigest()


def tensors_digest(tensors: Iterable[tuple[str, str, tuple[int, ...], bytes | memoryview]]) -> str:
    """Returns the BLAKE3 hash (128 bits) of named tensors, in hexadecimal digits.

    Each tensor is (name, dtype in safetensors' form such as "F32", shape, little-endian row-major bytes). The digest
    depends neither on the order of the tensors nor on which file contains which tensor.
    """
    digest = blake3()
    for name, dtype, shape, data in sorted(tensors, key=lambda tensor: tensor[0]):
        digest.update(f"{name}\0{dtype}\0{'x'.join(map(str, shape))}\0".encode())
        digest.update(data)
    return digest.hexdigest(length=DIGEST_BYTES)


class SafetensorsError(ValueError):
    """A file is truncated, or is not a safetensors file."""


class _Entry(msgspec.Struct):
    """The entry of one tensor in the header of a safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_safetensors_header(path: Path, *, whole: bool = True) -> tuple[dict[str, Any], int]:
    """Returns (header, offset of the data in bytes) of the safetensors file `path`.

    The header is {tensor name: {"dtype": …, "shape": …, "data_offsets": …}}. `whole`: whether the file must contain the
    data. If False, the file can end after the header.

    Raises:
        SafetensorsError: the file is truncated, or is not a safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise SafetensorsError(f"{path}: {size} bytes are too few for the announced header")
        try:
            header = msgspec.json.decode(file.read(length), type=dict[str, dict[str, Any]])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SafetensorsError(f"{path}: not a safetensors file: {error}") from error
    header.pop("__metadata__", None)
    try:
        entries = msgspec.convert(list(header.values()), list[_Entry])
    except msgspec.ValidationError as error:
        raise SafetensorsError(f"{path}: a tensor's entry in the header is malformed: {error}") from error
    end = 0
    for begin, stop in sorted(entry.data_offsets for entry in entries):
        if stop < begin:
            raise SafetensorsError(f"{path}: a tensor's data begin at {begin}, but end before that, at {stop}")
        if begin != end:  # safetensors forbids gaps and overlaps
            raise SafetensorsError(f"{path}: a tensor's data begin at {begin}, but should begin at {end}")
        end = stop
    if whole and 8 + length + end != size:
        raise SafetensorsError(f"{path}: {size} bytes, but its header describes {8 + length + end}")
    return header, 8 + length


def safetensors_digest(*paths: Path) -> str:
    """Returns `tensors_digest` of all tensors in the safetensors files `paths` (the shards of one model).

    Raises:
        SafetensorsError: a file is truncated, or is not a safetensors file.
    """
    with contextlib.ExitStack() as stack:
        tensors = []
        for path in paths:
            header, base = read_safetensors_header(path)
            file = stack.enter_context(path.open("rb"))
            data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            view = stack.enter_context(memoryview(data))
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                part = stack.enter_context(view[base + begin : base + end])
                tensors.append((name, entry["dtype"], tuple(entry["shape"]), part))
        return tensors_digest(tensors)
