"""Manages the folder `weights_root`. Each directory in this folder contains one version of the weights. The trainer
either writes the directories itself, or uploads the files over HTTP. The upload of a file can be a delta, which
contains only the difference to a file of an earlier version.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from arlarena.inference.weights.versions import (
    VersionError,
    committed_versions,
    parse_manifest,
    read_manifest,
    verify,
    verify_files,
)
from arlarena.proto.trajectory import PolicyVersion
from arlarena.proto.versions.delta import DeltaError, apply_delta
from arlarena.proto.versions.directory import (
    COMMITTED_FILE,
    MANIFEST_FILE,
    Manifest,
    ManifestFile,
    PushTarget,
    SafetensorsError,
    file_blake3,
    version_directory_name,
)

_DELTA_EXTRA_BYTES = 1 << 20  # a delta can be larger than the complete file, but at most by this number of bytes


class UnknownVersion(VersionError):
    """This server does not have the version."""


class Store:
    """A folder of version directories. A version is uploaded in these steps:

    1. `announce(directory, manifest)` creates a hidden directory and returns the names of the missing files.
    2. `receive(directory, file, …)` stores one missing file in the hidden directory.
    3. `find(label)` verifies the complete upload and commits it: the hidden directory becomes a version directory.
       A label is the name of a version, `incarnation:step:digest` (see `arlarena.proto.trajectory.PolicyVersion`).
    4. When the new version is in service, `remove_old(directory)` removes old versions. If the new version cannot be
       served, `remove_refused(directory)` removes the new version instead.

    Old versions are not removed earlier, so a restarted server always finds a valid version.
    """

    def __init__(self, root: Path | None, keep: int) -> None:
        """`root`: the folder. `keep`: the number of versions that `remove_old` does not remove."""
        self._root, self._keep = root, keep
        self._uploaded: set[Path] = set()  # directories of committed uploads that are not yet in service

    @property
    def root(self) -> Path:
        """The folder that contains the version directories.

        Raises:
            VersionError: weights_root is not set.
        """
        if self._root is None:
            raise VersionError("this server has no folder for uploaded weights: set [inference] weights_root")
        return self._root

    def find(self, label: str) -> Path:
        """Returns the directory of the version with this label. If the version was uploaded but is not committed yet,
        verifies and commits the upload first.

        Raises:
            UnknownVersion: this server does not have the version.
            VersionError: the upload is incomplete or damaged, or weights_root is not set.
        """
        try:
            version = PolicyVersion.parse(label)
        except ValueError as error:
            raise UnknownVersion(f"{label!r} is not the label of a version: {error}") from error
        name = version_directory_name(version.step, version.digest)
        directory, upload = self.root / name, self._upload_directory(name)
        if (upload / MANIFEST_FILE).is_file() and self._manifest(upload).label == label:
            self._commit(upload, directory)
        if not (directory / COMMITTED_FILE).is_file():
            raise UnknownVersion(f"{label} is not in {self.root} and was not uploaded")
        actual = read_manifest(directory).label
        if actual != label:
            raise UnknownVersion(f"{directory} contains {actual}, not {label}")
        return directory

    def announce(self, directory: str, text: bytes) -> PushTarget:
        """Begin or resume the upload of a version, and remove all other unfinished uploads. `directory`: the name of
        the version directory. `text`: the version's manifest.

        Returns the names of the missing files, and the name of the newest version directory of this server. The trainer
        can send a missing file as the difference to the file in this directory.

        Raises:
            VersionError: the manifest is malformed or belongs to another directory, or weights_root is not set.
        """
        manifest = parse_manifest(text, f"the manifest of {directory}")
        if manifest.directory != directory:
            raise VersionError(f"the manifest belongs to {manifest.directory}, not to {directory}")
        committed = self.root / directory
        if (committed / COMMITTED_FILE).is_file() and read_manifest(committed) == manifest:
            return PushTarget([])
        upload = self._upload_directory(directory)
        self._remove_uploads(all_but=upload)
        upload.mkdir(exist_ok=True)
        _create(upload / MANIFEST_FILE, text)
        stored = committed_versions(self.root)
        missing = [name for name in manifest.files if not self._reuse(name, manifest, upload, stored)]
        return PushTarget(missing, stored[0].name if stored else None)

    async def receive(self, directory: str, name: str, body: AsyncIterator[bytes], base: str | None) -> None:
        """Receive and store the file `name` of an announced version. If `base` is None, `body` is the complete file.
        Otherwise `body` is a delta: the difference to the file `name` in the version directory `base`.

        Raises:
            VersionError: the version was not announced; its manifest does not list the file; the file is too large or
                does not match its checksum; the delta cannot be applied; or weights_root is not set.
        """
        upload = self._upload_directory(directory)
        if not (upload / MANIFEST_FILE).is_file():
            raise VersionError(f"{directory} was not announced: first send its manifest to PUT /weights/{directory}")
        entry = self._manifest(upload).files.get(name)
        if entry is None:
            raise VersionError(f"the manifest of {directory} does not list {name!r}")
        part = upload / f"{name}.part"
        await _write(part, body, entry.bytes + (_DELTA_EXTRA_BYTES if base else 0))
        if base is not None:
            part = await asyncio.to_thread(self._apply, base, name, part, entry.bytes)
        if not await asyncio.to_thread(_matches, part, entry):
            part.unlink()
            raise VersionError(f"{name} of {directory} arrived damaged: it does not match its checksum")
        part.rename(upload / name)

    def remove_old(self, directory: Path) -> None:
        """Remove old versions. Called when the uploaded version `directory` is in service. This version and the
        `keep` - 1 versions before it stay. Versions with a higher step are also removed: they exist only if the trainer
        has returned to an earlier step. Does nothing if the version was not uploaded.
        """
        if directory not in self._uploaded:
            return
        self._uploaded.remove(directory)
        stored = committed_versions(self.root)
        if directory not in stored:
            return
        old = stored[: stored.index(directory)] + stored[stored.index(directory) + self._keep :]
        for other in old:
            _remove(other)

    def remove_refused(self, directory: Path) -> None:
        """Remove an uploaded version that cannot be served. Does nothing if the version was not uploaded since the
        start of this process, or was already in service.
        """
        if directory in self._uploaded:
            self._uploaded.remove(directory)
            _remove(directory)

    def _apply(self, base: str, name: str, delta: Path, size: int) -> Path:
        source = self.root / Path(base).name / name
        restored = delta.with_suffix(".restored")
        restored.unlink(missing_ok=True)
        try:
            apply_delta(source, delta, restored, size)
        except (OSError, DeltaError, SafetensorsError) as error:
            restored.unlink(missing_ok=True)
            raise VersionError(f"the delta of {name} to the version {base} cannot be applied: {error}") from error
        finally:
            delta.unlink()
        return restored

    def _reuse(self, name: str, manifest: Manifest, upload: Path, stored: list[Path]) -> bool:
        """Returns True if the trainer need not send the file `name`. There are two cases. Either an earlier attempt has
        already uploaded the file. Or another version has a file with this name and checksum. In the second case, this
        method links the other version's file into the upload. If the file system has no hard links, it copies the file.
        """
        entry = manifest.files[name]
        target = upload / name
        if _matches(target, entry):
            return True
        target.unlink(missing_ok=True)
        for directory in stored:
            # An error occurs if the manifest in `directory` is damaged or has an unknown schema, or if `directory` is
            # being removed.
            with contextlib.suppress(VersionError, FileNotFoundError):
                if read_manifest(directory).files.get(name) == entry and _matches(directory / name, entry):
                    _link(directory / name, target)
                    return True
        return False

    def _commit(self, upload: Path, directory: Path) -> None:
        """Verify the directory `upload` and rename it to the version directory `directory`. If the upload is damaged,
        remove it.

        Raises:
            VersionError: the upload is incomplete or damaged.
        """
        missing = [name for name in self._manifest(upload).files if not (upload / name).is_file()]
        if missing:
            raise VersionError(f"{directory.name} is incomplete: these files are missing: {', '.join(missing)}")
        try:
            verify_files(upload, self._manifest(upload))
        except VersionError:
            # Each file matched its checksum when it arrived. So either a file has changed on the disk after its
            # arrival, or the manifest has a wrong digest of the tensors. The next upload must not reuse these files.
            shutil.rmtree(upload)
            raise
        # The directory exists already if an earlier run had the same weights, or if a crash left an incomplete version.
        _remove(directory)
        upload.rename(directory)
        (directory / COMMITTED_FILE).touch()
        self._uploaded.add(directory)

    def _remove_uploads(self, all_but: Path) -> None:
        """Remove all unfinished uploads except `all_but`. If `all_but` is a file or a symbolic link instead of a
        directory, `all_but` is removed too.
        """
        for other in self.root.glob(".incoming-*"):
            if other.is_symlink() or not other.is_dir():
                other.unlink()
            elif other != all_but:
                shutil.rmtree(other, ignore_errors=True)

    def _upload_directory(self, directory: str) -> Path:
        return self.root / f".incoming-{Path(directory).name}"

    def _manifest(self, upload: Path) -> Manifest:
        return parse_manifest((upload / MANIFEST_FILE).read_bytes(), f"the manifest of {upload.name}")


def intact_versions(root: Path | None) -> Iterator[Path]:
    """Yields the directories of all intact versions, newest first. A version is intact if it is committed and its files
    match the manifest.
    """
    for directory in committed_versions(root) if root else []:
        with contextlib.suppress(VersionError):
            verify(directory)
            yield directory


def newest_intact(root: Path | None) -> Path | None:
    """Returns the directory of the newest intact version. Returns None if there is no intact version."""
    return next(intact_versions(root), None)


def _matches(file: Path, entry: ManifestFile) -> bool:
    """True if `file` is a regular file with the size and the checksum in `entry`. False for a symbolic link."""
    try:
        status = file.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == entry.bytes and file_blake3(file) == entry.blake3


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or no support for hard links
        shutil.copyfile(source, target)


def _remove(directory: Path) -> None:
    """Remove a version. The file `COMMITTED` is removed first, so no process reads a partly removed version."""
    (directory / COMMITTED_FILE).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def _create(path: Path, data: bytes) -> None:
    """Write a new file. Replaces an existing file or link at `path`. If `path` is a link, its target is not changed."""
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.write(data)


async def _write(path: Path, body: AsyncIterator[bytes], limit: int) -> None:
    size = 0
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        async for chunk in body:
            size += len(chunk)
            if size > limit:
                raise VersionError(f"{path.name.removesuffix('.part')} is larger than the manifest says")
            file.write(chunk)
