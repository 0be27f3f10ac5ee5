"""Reads and verifies version directories, and checks probes.

A version directory contains one version of the weights. The file `COMMITTED` in a directory shows that the directory is
complete (committed). A version's probe is a few token ids with the trainer's log-probs of these tokens. An engine that
has loaded the version must compute the same log-probs, within a tolerance.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from arlarena.proto.versions.directory import (
    COMMITTED_FILE,
    MANIFEST_FILE,
    MANIFEST_SCHEMA,
    Broadcast,
    Manifest,
    ManifestProbe,
    SafetensorsError,
    file_blake3,
    largest_difference,
    safetensors_digest,
)

Source = Path | Broadcast  # where a version's weights come from: a directory, or a sender that broadcasts the tensors


class VersionError(ValueError):
    """A version cannot be served. The message names the file and the problem."""


class ProbeError(VersionError):
    """The log-probs computed with a version's weights differ too much from the trainer's log-probs."""


def read_manifest(directory: Path) -> Manifest:
    """Returns the manifest of a committed version directory.

    Raises:
        VersionError: the directory is not committed, or its manifest is missing, malformed or has another schema.
    """
    if not directory.is_dir():
        raise VersionError(f"{directory}: no such directory")
    if not (directory / COMMITTED_FILE).is_file():
        raise VersionError(f"{directory} is not committed: it has no {COMMITTED_FILE} file")
    path = directory / MANIFEST_FILE
    try:
        return parse_manifest(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise VersionError(f"{path} does not exist") from error
    except OSError as error:
        raise VersionError(f"{path} cannot be read: {error}") from error


class _Schema(msgspec.Struct):
    schema: int


def parse_manifest(text: bytes, name: str) -> Manifest:
    """Decode a manifest. `name`: the manifest's name in error messages.

    Raises:
        VersionError: the manifest is malformed, has another schema, or lists a name that is not a plain file name.
    """
    try:
        schema = msgspec.json.decode(text, type=_Schema).schema
        if schema != MANIFEST_SCHEMA:
            raise VersionError(f"{name} has schema {schema}, but this server reads only schema {MANIFEST_SCHEMA}")
        manifest = msgspec.json.decode(text, type=Manifest)
    except VersionError:
        raise
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # a ValueError if `text` is not UTF-8
        raise VersionError(f"{name} cannot be read: {error}") from error
    for file in manifest.files:
        if Path(file).name != file or file in (MANIFEST_FILE, COMMITTED_FILE):
            raise VersionError(f"{name} lists {file!r}, which is not a plain file name")
    return manifest


def verify(directory: Path) -> Manifest:
    """Check the files of a committed version directory. Returns the manifest.

    Raises:
        VersionError: the directory is not committed, the manifest cannot be read, or a file is missing or damaged.
    """
    manifest = read_manifest(directory)
    verify_files(directory, manifest)
    return manifest


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Compare the files of a version with the manifest: the sizes of all files, the checksums of the files without
    tensors, and the digest of all tensors together.

    Raises:
        VersionError: a file is missing, truncated or altered, or the digest differs from the digest in the manifest.
    """
    try:
        _verify(directory, manifest)
    except (OSError, SafetensorsError) as error:  # an OSError if another process removes a file during the check
        raise VersionError(f"{directory} cannot be read: {error}") from error


def _verify(directory: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        path = directory / name
        if not path.is_file():
            raise VersionError(f"{path} is listed in the manifest but does not exist")
        if (size := path.stat().st_size) != entry.bytes:
            raise VersionError(f"{path} has {size} bytes, but the manifest says {entry.bytes}")
        if not name.endswith(".safetensors") and file_blake3(path) != entry.blake3:
            raise VersionError(f"{path} does not match its checksum in the manifest")
    weights = sorted(directory / name for name in manifest.files if name.endswith(".safetensors"))
    digest = safetensors_digest(*weights)
    if digest != manifest.version.digest:
        raise VersionError(
            f"{directory}: the tensors' digest is {digest}, but the manifest says "
            f"{manifest.version.digest}: the tensors are damaged"
        )


def committed_versions(root: Path) -> list[Path]:
    """Returns the committed version directories, newest first: the highest step first, and for equal steps the latest
    commit time first.
    """
    versions = []
    for marker in root.glob(f"v*/{COMMITTED_FILE}"):
        step = marker.parent.name[1:].split("-")[0]
        if step.isdigit():
            with contextlib.suppress(FileNotFoundError):  # the trainer can remove a version at the same time
                versions.append((int(step), marker.stat().st_mtime_ns, marker.parent))
    return [directory for *_, directory in sorted(versions, reverse=True)]


def check_probe(directory: Path | str, probe: ManifestProbe, served: list[float]) -> float:
    """Returns the largest absolute difference between the log-probs of the engine and of the trainer. `directory`: the
    version's directory for the error message. `probe`: the trainer's log-probs. `served`: the engine's log-probs.

    Raises:
        ProbeError: the difference is above the tolerance in the probe.
    """
    difference = largest_difference(probe, served)
    if difference > probe.tolerance:
        raise ProbeError(
            f"{directory}: the log-probs of the probe differ by {difference:.2e} from the trainer's (allowed "
            f"{probe.tolerance:.0e}): the weights in use differ from the pushed weights"
        )
    return difference
