"""Writes the version directories (`arlarena.proto.versions.directory`) of a run, for the policy servers.

The manifest of a version contains a probe: token ids and their log-probs under the weights of the version. With the
probe, a policy server checks that it has loaded the weights correctly.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from arlarena.proto.trajectory import PolicyVersion
from arlarena.proto.versions.directory import (
    COMMITTED_FILE,
    MANIFEST_FILE,
    MANIFEST_SCHEMA,
    WEIGHTS_FILE,
    Manifest,
    ManifestFile,
    ManifestProbe,
    ManifestVersion,
    file_blake3,
    safetensors_digest,
    version_directory_name,
)


@dataclass(frozen=True, slots=True)
class Version:
    """A committed version directory. `exact`: one file contains all tensors of the trainer, in the trainer's dtype."""

    version: PolicyVersion
    path: Path
    exact: bool = False

    @property
    def bytes(self) -> int:
        """The size of all files of the version."""
        return sum(file.stat().st_size for file in self.path.iterdir())

    @property
    def weights_file(self) -> Path | None:
        """The file with the trainer's exact tensors, for a hard link in a checkpoint; None if there is no such file."""
        return self.path / WEIGHTS_FILE if self.exact else None


class VersionStore:
    """The version directories of one run. A version is the weights of one training step.

    Only weights files that a checkpoint links to are fsynced. Readers verify the checksums of a version. If a crash of
    the machine damages a version, the resumed run writes the version again from the checkpoint.
    """

    def __init__(
        self, root: Path, tokenizer: Path, incarnation: str, keep: int, dtype: torch.dtype = torch.float32
    ) -> None:
        """Store the arguments.

        `tokenizer`: source of the tokenizer files. `incarnation`: random id of this trainer process. `keep`: number of
        versions that are kept. `dtype`: dtype of the written weights.
        """
        self.root, self.incarnation = root, incarnation
        self._tokenizer, self._keep, self._dtype = tokenizer, keep, dtype
        self._template: _Template | None = None

    def write(
        self,
        model: PreTrainedModel,
        weights: Mapping[str, Tensor],
        step: int,
        compute_probe: Callable[[], ManifestProbe] | None = None,
    ) -> Version:
        """Write `model` with the `weights` of `step` as a Hugging Face directory with a manifest and a commit marker.

        `compute_probe`: returns the probe of these weights (token ids and their log-probs), and may be called while the
        files are written; None: the version has no probe.
        """
        partial = self.root / f".partial-{step:06d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(self._files, model, weights, partial)
            if self._template is None:
                written.result()  # transformers reads the model while it saves, so the probe must wait
            probe = None if compute_probe is None else compute_probe()
            digest, files = written.result()
        manifest = Manifest(ManifestVersion(self.incarnation, step, digest), files, MANIFEST_SCHEMA, probe)
        (partial / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        target = self.root / version_directory_name(step, digest)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        (target / COMMITTED_FILE).touch()
        if self._template is not None:
            self._template.directory, self._template.files = target, files
        exact = self._template is not None and all(value.dtype == self._dtype for value in weights.values())
        return Version(PolicyVersion(self.incarnation, step, digest), target, exact)

    def forget_old(self) -> None:
        """Remove all versions except the `keep` newest."""
        for path in versions_after(self.root, -1)[: -self._keep]:
            (path / COMMITTED_FILE).unlink(missing_ok=True)
            shutil.rmtree(path)

    def discard_after(self, step: int) -> None:
        """Remove the versions of steps after `step`, because a resumed run takes those steps again."""
        for path in versions_after(self.root, step):
            shutil.rmtree(path)

    def _files(
        self, model: PreTrainedModel, weights: Mapping[str, Tensor], target: Path
    ) -> tuple[str, dict[str, ManifestFile]]:
        """Write all files except the manifest. Returns the digest of the tensors and the files' manifest entries."""
        known = self._save(model, _convert_dtype(weights, self._dtype), target)
        new = [file for file in target.iterdir() if file.name not in known]
        digest = safetensors_digest(*sorted(target.glob("*.safetensors")))
        return digest, known | {file.name: ManifestFile(file_blake3(file), file.stat().st_size) for file in new}

    def _save(self, model: PreTrainedModel, weights: dict[str, Tensor], target: Path) -> dict[str, ManifestFile]:
        """Write all files except the manifest. Returns the manifest entries of the files with a known hash."""
        if self._template is not None and self._template.directory.is_dir():
            return self._template.write(weights, target)
        model.save_pretrained(target, state_dict=dict(weights))
        config = json.loads((target / "config.json").read_text())
        config["dtype"] = str(self._dtype).removeprefix("torch.")
        (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        copy_tokenizer(self._tokenizer, target)
        self._template = _Template.of(target, weights)
        return {}


def versions_after(root: Path, step: int) -> list[Path]:
    """Return the directories of versions after `step` in `root`, oldest first."""
    directories = [path for path in root.glob("v??????-*") if path.is_dir() and path.name[1:7].isdigit()]
    return sorted(path for path in directories if int(path.name[1:7]) > step)


@dataclass(slots=True)
class _Template:
    """A version that transformers wrote, used as a template for later versions.

    A later version gets a new weights file. Its other files are hard links to the files of the previous version.
    Writing is then three times as fast.

    A version can be a template only if one file contains all tensors of the model unchanged. For some models,
    transformers converts the tensors or splits the file. Then there is no template, and transformers writes every
    version.
    """

    tensors: tuple[str, ...]
    directory: Path  # the newest version
    files: dict[str, ManifestFile]

    @classmethod
    def of(cls, directory: Path, weights: Mapping[str, Tensor]) -> _Template | None:
        """Return the template from a directory that `save_pretrained` wrote; None if it cannot be a template."""
        if [file.name for file in directory.glob("*.safetensors")] != [WEIGHTS_FILE]:
            return None
        saved = load_file(directory / WEIGHTS_FILE)
        if not all(name in weights and value.equal(weights[name]) for name, value in saved.items()):
            return None
        return cls(tuple(saved), directory, {})

    def write(self, weights: Mapping[str, Tensor], target: Path) -> dict[str, ManifestFile]:
        """Write a version with `weights` to `target`. Returns the manifest entries of the unchanged files."""
        tensors = {name: weights[name].contiguous() for name in self.tensors}
        try:
            save_file(tensors, target / WEIGHTS_FILE, metadata={"format": "pt"})
        except SafetensorError as error:  # for example, the disk is full
            raise OSError(f"{target / WEIGHTS_FILE}: {error}") from error
        same = {name: entry for name, entry in self.files.items() if name != WEIGHTS_FILE}
        for name in same:
            _link(self.directory / name, target / name)
        return same


def _convert_dtype(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights in `dtype`. Tied weights (one tensor with several names) stay tied."""
    converted = {value.data_ptr(): value.to(dtype) for value in weights.values()}
    return {name: converted[value.data_ptr()] for name, value in weights.items()}


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer of `source`, a directory or a hub name, to `target`."""
    if not source.is_dir():
        AutoTokenizer.from_pretrained(str(source)).save_pretrained(target)
        return
    for file in source.iterdir():
        if "token" in file.name or file.name in ("vocab.json", "merges.txt", "chat_template.jinja"):
            shutil.copy2(file, target / file.name)
