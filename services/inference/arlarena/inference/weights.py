"""Reading version directories: which is the newest, is it whole, does it fit the model in service."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from arlarena.inference.embedded.architecture import Architecture, UnsupportedModelError, read_architecture
from arlarena.inference.embedded.parameters import Parameters, WeightsError, load_parameters
from arlarena.proto.trajectory import PolicyVersion
from arlarena.proto.weights import (
    COMMITTED_FILE,
    MANIFEST_FILE,
    MANIFEST_SCHEMA,
    Manifest,
    SafetensorsError,
    file_sha256,
    safetensors_digest,
)


class VersionError(ValueError):
    """A version directory that must not be served; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """Weights ready to serve, and what they are called."""

    label: str
    parameters: Parameters
    arch: Architecture
    directory: Path


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a committed directory.

    Raises:
        VersionError: the directory is not committed, or its manifest is missing, malformed or newer than this code.
    """
    if not directory.is_dir():
        raise VersionError(f"{directory}: no such directory")
    if not (directory / COMMITTED_FILE).is_file():
        raise VersionError(f"{directory} is not committed: it has no {COMMITTED_FILE} file")
    path = directory / MANIFEST_FILE
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise VersionError(f"{path} does not exist") from error
    except (msgspec.MsgspecError, OSError) as error:
        raise VersionError(f"{path} cannot be read: {error}") from error
    if manifest.schema > MANIFEST_SCHEMA:
        raise VersionError(f"{path} has schema {manifest.schema}, this server reads up to {MANIFEST_SCHEMA}")
    return manifest


def verify(directory: Path) -> PolicyVersion:
    """Compare every file with its checksum and the tensors with the digest; the version that the directory holds.

    Raises:
        VersionError: see `read_manifest`; or a file is missing, cut short or altered, or the digest is another.
    """
    try:
        return _verify(directory, read_manifest(directory))
    except (OSError, SafetensorsError) as error:  # OSError: a file vanished meanwhile
        raise VersionError(f"{directory} cannot be read: {error}") from error


def _verify(directory: Path, manifest: Manifest) -> PolicyVersion:
    for name, entry in manifest.files.items():
        path = directory / name
        if Path(name).name != name:
            raise VersionError(f"{directory / MANIFEST_FILE} lists {name!r}, which is not a plain file name")
        if not path.is_file():
            raise VersionError(f"{path} is listed in the manifest and does not exist")
        if (size := path.stat().st_size) != entry.bytes:
            raise VersionError(f"{path} has {size} bytes, the manifest says {entry.bytes}")
        if file_sha256(path) != entry.sha256:
            raise VersionError(f"{path} does not match its checksum in the manifest")
    version = manifest.version
    weights = sorted(directory / name for name in manifest.files if name.endswith(".safetensors"))
    digest = safetensors_digest(*weights)
    if digest != version.digest:
        raise VersionError(f"{directory}: the tensors' digest is {digest}, the manifest says {version.digest}")
    return PolicyVersion(version.incarnation, version.step, version.digest)


def load_version(directory: Path, arch: Architecture | None = None) -> LoadedVersion:
    """Verify and load a version directory; with `arch`, only if it is of that architecture.

    Raises:
        VersionError: the directory is not whole, or its weights do not fit.
    """
    version = verify(directory)
    try:
        found = read_architecture(directory)
        if arch is not None and found != arch:
            raise VersionError(f"{directory} holds another architecture: {_difference(found, arch)}")
        return LoadedVersion(str(version), load_parameters(directory, found), found, directory)
    except (UnsupportedModelError, WeightsError) as error:
        raise VersionError(str(error)) from error


def load_model(directory: Path) -> LoadedVersion:
    """Load an ordinary Hugging Face directory; its version is `initial:0:<digest>` unless it is a version directory.

    Raises:
        VersionError: the directory cannot be served.
    """
    if (directory / COMMITTED_FILE).is_file():
        return load_version(directory)
    try:
        arch = read_architecture(directory)
        parameters = load_parameters(directory, arch)
        digest = safetensors_digest(*sorted(directory.glob("*.safetensors")))
    except (UnsupportedModelError, WeightsError, SafetensorsError, OSError) as error:
        raise VersionError(str(error)) from error
    return LoadedVersion(str(PolicyVersion("initial", 0, digest)), parameters, arch, directory)


def committed_versions(root: Path) -> list[Path]:
    """Committed version directories, the newest first: by step, then by when they were committed."""
    found = []
    for marker in root.glob(f"v*/{COMMITTED_FILE}"):
        step = marker.parent.name[1:].split("-")[0]
        if step.isdigit():
            with contextlib.suppress(FileNotFoundError):  # a trainer may be removing old versions
                found.append((int(step), marker.stat().st_mtime_ns, marker.parent))
    return [directory for *_, directory in sorted(found, reverse=True)]


def _difference(found: Architecture, expected: Architecture) -> str:
    parts = []
    for name in Architecture.__slots__:
        if getattr(found, name) != getattr(expected, name):
            parts.append(f"{name} {getattr(found, name)} instead of {getattr(expected, name)}")
    return ", ".join(parts)
