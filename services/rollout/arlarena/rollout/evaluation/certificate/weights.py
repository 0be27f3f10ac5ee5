"""Checks policy digests: hashes the weights of versions and checkpoints, and compares the hashes with records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from arlarena.proto.trajectory import PolicyVersion
from arlarena.proto.versions.directory import (
    MANIFEST_FILE,
    WEIGHTS_FILE,
    Manifest,
    SafetensorsError,
    file_blake3,
    read_safetensors_header,
    safetensors_digest,
)
from arlarena.rollout.evaluation.certificate.checks import Evidence
from arlarena.rollout.evaluation.certificate.run_files import RunFiles

# `PolicyVersion.incarnation` of the weights with which a policy server starts, before the trainer's first push.
INITIAL = "initial"


class CheckpointFile(msgspec.Struct, frozen=True):
    """A file's entry in the manifest of a checkpoint. `blake3`: in hex. `size`: in bytes."""

    size: int
    blake3: str


class CheckpointManifest(msgspec.Struct, frozen=True):
    """`manifest.json` of a checkpoint."""

    files: dict[str, CheckpointFile]


def check_weights(run: RunFiles) -> Evidence:
    """Compute the digest of each kept version and checkpoint from its weights. Compare the digest with the records."""
    evidence = Evidence("policy digests are those of the weights", "weights file")
    known: dict[str, int] = dict((run.newest_state or {}).get("versions", {}))
    for path in run.versions:
        evidence.compare(f"{run.relative(path)}: {reason}" for reason in version_faults(path, known))
    for path in run.checkpoints:
        faults, unknown = checkpoint_faults(run, path, known)
        evidence.compare(f"{run.relative(path)}: {reason}" for reason in faults)
        evidence.not_checked += [f"{run.relative(path)}: {reason}" for reason in unknown]
    if known and len(run.versions) < len(known):
        evidence.notes.append(f"{len(run.versions)} of {len(known)} versions are kept; the rest have no weights")
    return evidence


def version_faults(path: Path, known: dict[str, int]) -> Iterator[str]:
    """Yield the faults of a version directory. `known`: the step of each version of the run, by digest."""
    try:
        manifest = msgspec.json.decode((path / MANIFEST_FILE).read_bytes(), type=Manifest)
    except (msgspec.MsgspecError, OSError) as error:
        yield f"{MANIFEST_FILE} cannot be read: {error}"
        return
    version = manifest.version
    yield from (
        reason
        for name, entry in manifest.files.items()
        if (reason := _file_fault(path / name, entry.blake3, entry.bytes))
    )
    try:
        digest = safetensors_digest(*sorted(path.glob("*.safetensors")))
    except (SafetensorsError, OSError) as error:
        yield f"the weights cannot be read: {error}"
        return
    if digest != version.digest:
        yield f"the weights have the digest {digest}, but the manifest says {version.digest}"
    if path.name != manifest.directory:
        yield f"the directory should have the name {manifest.directory}"
    if known and known.get(version.digest) != version.step:
        yield f"version {version.digest} of step {version.step} is not in the record of the newest checkpoint"


def _file_fault(path: Path, blake3: str, size: int) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != size:
        return f"{path.name} has {path.stat().st_size} bytes instead of {size}"
    return None if file_blake3(path) == blake3 else f"{path.name} does not match its checksum"


def checkpoint_faults(run: RunFiles, path: Path, known: dict[str, int]) -> tuple[list[str], list[str]]:
    """Returns (faults, unknown): texts about faults of a checkpoint, and reasons why its digest cannot be compared.

    The weights of a checkpoint must have the digest of the version of its step. `known`: the step of each version in
    the newest checkpoint, by digest.
    """
    try:
        manifest = msgspec.json.decode((path / MANIFEST_FILE).read_bytes(), type=CheckpointManifest)
    except (msgspec.MsgspecError, OSError) as error:
        return [f"{MANIFEST_FILE} cannot be read: {error}"], []
    entries = manifest.files.items()
    faults = [reason for name, entry in entries if (reason := _file_fault(path / name, entry.blake3, entry.size))]
    step = int(path.name.split("-")[1])
    wanted = {digest for digest, at in known.items() if at == step}
    try:
        digest = safetensors_digest(path / WEIGHTS_FILE)
    except (SafetensorsError, OSError) as error:
        return [*faults, f"the weights cannot be read: {error}"], []
    if digest in wanted:
        return faults, []
    if not wanted:
        return faults, [f"no version of step {step} was published, so the digest {digest} cannot be compared"]
    if (reason := _other_dtype(run, path / WEIGHTS_FILE)) is not None:
        return faults, [reason]
    return [*faults, f"the weights have the digest {digest}, but the version of step {step} is {min(wanted)}"], []


def _other_dtype(run: RunFiles, weights: Path) -> str | None:
    """Returns the reason why the digests of versions and checkpoints cannot be compared, or None if they can.

    They cannot be compared if no version is kept, or if checkpoint and versions have different dtypes.
    """
    if not run.versions:
        return "no version is kept"
    files = sorted(run.versions[-1].glob("*.safetensors"))
    try:
        published = {entry["dtype"] for file in files for entry in read_safetensors_header(file)[0].values()}
        kept = {entry["dtype"] for entry in read_safetensors_header(weights)[0].values()}
    except (SafetensorsError, OSError):
        return None  # `version_faults` or `checkpoint_faults` reports the damage
    same = published == kept
    stored, sent = ", ".join(sorted(kept)), ", ".join(sorted(published))
    return None if same else f"the checkpoint has the dtype {stored}, but the weights were published in {sent}"


def check_evaluated_weights(run: RunFiles) -> Evidence:
    """Check that each evaluation used weights of the run.

    The evaluation "before" must have used the weights of step 0, and the evaluation "after" the weights of the last
    step.
    """
    evidence = Evidence("evaluations used weights of the run", "evaluation")
    state = run.newest_state or {}
    known: dict[str, int] = dict(state.get("versions", {}))
    for evaluation in run.evaluations:
        versions = [PolicyVersion.parse(text) for text in evaluation.result.get("versions", ())]
        if not versions or not known:
            evidence.not_checked.append(f"{evaluation.label}: no weights are recorded")
            continue
        evidence.compare(_evaluated_faults(evaluation.label, versions, known, state))
    return evidence


def _evaluated_faults(
    label: str, versions: list[PolicyVersion], known: dict[str, int], state: dict[str, Any]
) -> Iterator[str]:
    if len(versions) > 1:
        yield f"{label}: {len(versions)} different weights played: {', '.join(map(str, versions))}"
    wanted = {"before": 0, "after": state["step"]}.get(label)
    for version in versions:
        step = known.get(version.digest)
        if step is None and not (label == "before" and version.incarnation == INITIAL):
            yield f"{label}: weights {version.digest} are not a version of the run"
        elif step is not None and wanted is not None and step != wanted:
            yield f"{label}: weights of step {step} played instead of step {wanted}"
