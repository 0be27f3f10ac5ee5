"""A version directory: an ordinary Hugging Face directory, `manifest.json`, and an empty `COMMITTED` written last.

    <run>/weights/v000012-0a1b2c3d4e5f/
        config.json  model.safetensors  tokenizer.json  ...   what any engine loads
        manifest.json                                         the policy version, a probe, checksums and sizes
        COMMITTED                                             its presence says that everything before it is complete

The trainer writes such directories and the policy server reads them; `routes` below is how the one tells the other.
Nothing here needs torch: the digest of the weights is computed from the safetensors bytes. Hashes are BLAKE3: a large
model is hashed twice on each side of a push.
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

# The routes for weights, all of them with the administrator's token:
#   PUT  /weights/{directory}                    Manifest: what is coming        -> Wanted
#   PUT  /weights/{directory}/{file}?base=DIR    the file, or a delta to DIR's   -> {}
#   POST /serve_weights                          ServeWeights: bring it to use   -> Serving
#   GET  /weight_info                            WeightInfo, which is vLLM's route
WEIGHTS_ROUTE, SERVE_ROUTE = "/weights", "/serve_weights"

# How long a push may take, from its size: what a slow disk or a shared network still moves, and an engine's own time.
_SLOWEST_BYTES_PER_S = 50e6
_BASE_S = 30.0


class ManifestVersion(msgspec.Struct, frozen=True):
    """The policy version of a directory; see `trajectory.PolicyVersion`."""

    incarnation: str
    step: int
    digest: str


class ManifestFile(msgspec.Struct, frozen=True):
    """Checksum (hex BLAKE3) and size of one file."""

    blake3: str
    bytes: int


class ManifestProbe(msgspec.Struct, frozen=True):
    """A text of token ids and what the trainer computes of it, so that whoever serves the weights can check himself.

    `log_probs`: in nats at temperature 1, of ids 1 … n-1 given those before. `tolerance`: the largest |Δ| allowed.
    """

    ids: list[int]
    log_probs: list[float]
    tolerance: float


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """`manifest.json` of a version directory; every file but itself and the marker is listed."""

    version: ManifestVersion
    files: dict[str, ManifestFile]
    schema: int
    probe: ManifestProbe | None = None

    @property
    def label(self) -> str:
        """The version as `PolicyVersion` writes it."""
        version = self.version
        return f"{version.incarnation}:{version.step}:{version.digest}"

    @property
    def directory(self) -> str:
        """What the directory is called."""
        return version_directory_name(self.version.step, self.version.digest)

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(entry.bytes for entry in self.files.values())


class PushTarget(msgspec.Struct, frozen=True):
    """What a server needs of an announced version. `base`: a directory that it has; deltas may refer to that."""

    files: list[str]
    base: str | None = None


class Broadcast(msgspec.Struct, frozen=True):
    """Who sends the tensors of a version, over process groups of `torch.distributed`, and what the version is.

    `host` and `port` are those of the sender's TCPStore. A replica with W workers joins by these keys:
    `requests`             a counter; the first worker takes the next number n
    `request/{n}`          group name, W + 1 and the version, separated by blanks
    `{group}/tensors`      the sender's answer, JSON: [[name, dtype, shape], ...], or a text that says why not
    `{group}/done/{rank}`  set by each worker, rank 1 to W, that has received everything: then the sender leaves
    and over the store with the prefix `{group}` builds a group in which the sender has rank 0; the tensors are then
    broadcast in this order.
    """

    manifest: Manifest
    host: str
    port: int
    backend: Literal["nccl", "gloo"]


class ServeWeights(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Body of `/serve_weights`: the version to bring into use. A server that serves it already does nothing.

    `broadcast`: where it comes from, if not from the server's own version directories.
    """

    version: str
    broadcast: Broadcast | None = None


class ServedVersion(msgspec.Struct, frozen=True):
    """Answer of `/serve_weights`. `probe`: largest |Δ log-prob| of the version's probe, None where it has none."""

    version: str
    probe: float | None = None


def version_directory_name(step: int, digest: str) -> str:
    """`v000012-0a1b2c3d4e5f`: sorts by step."""
    return f"v{step:06d}-{digest[:12]}"


def push_limit_s(size: int) -> float:
    """Seconds that one phase of a push of `size` bytes may take."""
    return _BASE_S + size / _SLOWEST_BYTES_PER_S


def largest_difference(probe: ManifestProbe, served: Iterable[float]) -> float:
    """Largest |Δ log-prob| between a probe and what a server says of it; infinite where it says no number."""
    differences = [abs(a - b) for a, b in zip(probe.log_probs, served, strict=True)]
    return max((d if d == d else float("inf") for d in differences), default=0.0)


def file_blake3(path: Path) -> str:
    """Hex BLAKE3 of a file."""
    return blake3().update_mmap(path).hexdigest()


def tensors_digest(tensors: Iterable[tuple[str, str, tuple[int, ...], bytes | memoryview]]) -> str:
    """Hex BLAKE3, 128 bits, of named tensors, whatever their order.

    Each tensor is (name, dtype as safetensors writes it, for example "F32", shape, little-endian row-major bytes). The
    digest names a policy: directories with equal tensors have equal digests, whatever else is in the files.
    """
    digest = blake3()
    for name, dtype, shape, data in sorted(tensors, key=lambda tensor: tensor[0]):
        digest.update(f"{name}\0{dtype}\0{'x'.join(map(str, shape))}\0".encode())
        digest.update(data)
    return digest.hexdigest(length=DIGEST_BYTES)


class SafetensorsError(ValueError):
    """A file that is not safetensors, or is cut short."""


class _Entry(msgspec.Struct):
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_safetensors_header(path: Path, *, whole: bool = True) -> tuple[dict[str, Any], int]:
    """The header (tensor name -> dtype, shape, data_offsets) and the offset at which the data begin.

    Without `whole` the data may still be missing.

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
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SafetensorsError(f"{path}: not a safetensors file: {error}") from error
    header.pop("__metadata__", None)
    try:
        entries = msgspec.convert(list(header.values()), list[_Entry])
    except msgspec.ValidationError as error:
        raise SafetensorsError(f"{path}: a tensor's entry in the header is malformed: {error}") from error
    end = 0
    for begin, stop in sorted(entry.data_offsets for entry in entries):
        if begin != end or stop < begin:  # as in safetensors itself: neither holes nor overlaps
            raise SafetensorsError(
                f"{path}: a tensor's data begin at {begin} and end at {stop}, and should begin at {end}"
            )
        end = stop
    if whole and 8 + length + end != size:
        raise SafetensorsError(f"{path}: {size} bytes, but its header describes {8 + length + end}")
    return header, 8 + length


def safetensors_digest(*paths: Path) -> str:
    """`tensors_digest` of all tensors in one or more safetensors files (the shards of one model).

    Raises:
        SafetensorsError: a file is cut short or holds something else.
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
