"""Loads a version directory, or any Hugging Face directory, for the embedded engine. The manifest of a version can
contain a probe: a few token ids with the trainer's log-probs of these tokens. This module computes the log-probs again
with the loaded weights, and compares them with the trainer's log-probs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from arlarena.inference.embedded.architecture import Architecture, UnsupportedModelError, read_architecture
from arlarena.inference.embedded.model import Model
from arlarena.inference.embedded.prefill import log_probs
from arlarena.inference.embedded.weights.parameters import Parameters, WeightsError, load_parameters
from arlarena.inference.weights.versions import VersionError, check_probe, verify
from arlarena.proto.trajectory import PolicyVersion
from arlarena.proto.versions.directory import (
    COMMITTED_FILE,
    MANIFEST_FILE,
    ManifestProbe,
    SafetensorsError,
    safetensors_digest,
)


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """Weights that are ready to serve. `label`: the label of their version. `difference`: the result of the probe,
    which is the largest absolute difference between this engine's log-probs and the trainer's log-probs; None if there
    is no probe.
    """

    label: str
    parameters: Parameters
    arch: Architecture
    directory: Path
    difference: float | None = None


def load_version(directory: Path, arch: Architecture | None = None) -> LoadedVersion:
    """Verify and load a version directory, and check its probe. If `arch` is not None, the version must have the
    architecture `arch`.

    Raises:
        VersionError: the directory is damaged, or the weights do not fit the architecture.
        ProbeError: the log-probs of the probe differ too much from the trainer's log-probs.
    """
    manifest = verify(directory)
    try:
        actual = read_architecture(directory)
        if arch is not None and actual != arch:
            raise VersionError(f"{directory} has a different architecture: {_list_differences(actual, arch)}")
        parameters = load_parameters(directory, actual)
    except (UnsupportedModelError, WeightsError) as error:
        raise VersionError(str(error)) from error
    difference = None if manifest.probe is None else _run_probe(directory, manifest.probe, actual, parameters)
    return LoadedVersion(manifest.label, parameters, actual, directory, difference)


def _run_probe(directory: Path, probe: ManifestProbe, arch: Architecture, parameters: Parameters) -> float:
    """Compute the log-probs of the probe's token ids with the weights `parameters`. Returns the largest absolute
    difference from the trainer's log-probs.

    Raises:
        VersionError: the probe is malformed.
        ProbeError: the difference is above the tolerance in the probe.
    """
    ids = probe.ids
    if len(probe.log_probs) != len(ids) - 1 or not all(0 <= token < arch.vocab_size for token in ids):
        raise VersionError(
            f"{directory / MANIFEST_FILE} has a malformed probe: it must have ids below {arch.vocab_size}, and a "
            "log-prob for each id except the first"
        )
    return check_probe(directory, probe, log_probs(Model(arch, parameters, len(ids)), ids))


def load_model(directory: Path) -> LoadedVersion:
    """Load a Hugging Face directory. If it is a committed version directory, call `load_version`. Otherwise, the label
    of the weights is `initial:0:<digest>`. The digest is the digest of all tensors.

    Raises:
        VersionError: the weights cannot be served, or a version fails its probe.
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


def _list_differences(actual: Architecture, expected: Architecture) -> str:
    parts = []
    for name in Architecture.__slots__:
        if getattr(actual, name) != getattr(expected, name):
            parts.append(f"{name} {getattr(actual, name)} instead of {getattr(expected, name)}")
    return ", ".join(parts)
