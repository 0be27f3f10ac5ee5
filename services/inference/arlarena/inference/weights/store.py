"""The version directories of this server: shared with the trainer, or uploaded by it."""

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

_DELTA_SLACK = 1 << 20  # bytes by which a delta may exceed the file's size


class UnknownVersion(VersionError):
    """This server does not have the version."""


class Store:
    """A folder of version directories. An upload is in a hidden directory until it is complete and verified:

    announce(directory, manifest) -> receive(directory, file, …) for each missing file -> find(label) commits it
    -> accepted(directory) once it serves, or refused(directory)

    Older versions are removed only once the new version serves, so a restarted server always finds a valid version.
    """

    def __init__(self, root: Path | None, keep: int) -> None:
        """`keep`: how many of the newest versions stay after an uploaded version is accepted."""
        self._root, self._keep = root, keep
        self._sent: set[Path] = set()  # uploads that `find` has committed, not yet accepted or refused

    @property
    def root(self) -> Path:
        """The folder.

        Raises:
            VersionError: weights_root is not set.
        """
        if self._root is None:
            raise VersionError("this server takes no weights: set [inference] weights_root")
        return self._root

    def find(self, label: str) -> Path:
        """The directory of a version; a new upload is verified and committed first.

        Raises:
            UnknownVersion: the version is not here. VersionError: the upload is incomplete or damaged.
        """
        try:
            version = PolicyVersion.parse(label)
        except ValueError as error:
            raise UnknownVersion(f"{label!r} is not a version: {error}") from error
        name = version_directory_name(version.step, version.digest)
        directory, upload = self.root / name, self._upload_directory(name)
        if (upload / MANIFEST_FILE).is_file() and self._manifest(upload).label == label:
            self._commit(upload, directory)
        if not (directory / COMMITTED_FILE).is_file():
            raise UnknownVersion(f"{label} is neither in {self.root} nor was it sent")
        found = read_manifest(directory).label
        if found != label:
            raise UnknownVersion(f"{directory} holds {found}, not {label}")
        return directory

    def announce(self, directory: str, text: bytes) -> PushTarget:
        """Begin or resume the upload of the version of this manifest. Returns the missing files.

        Raises:
            VersionError: the manifest is malformed or belongs to another directory.
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
        """Receive a file of an announced version, or a delta to the file of the same name in `base`.

        Raises:
            VersionError: the file was not announced, or does not match its checksum.
        """
        upload = self._upload_directory(directory)
        if not (upload / MANIFEST_FILE).is_file():
            raise VersionError(f"{directory} was not announced")
        entry = self._manifest(upload).files.get(name)
        if entry is None:
            raise VersionError(f"the manifest of {directory} does not list {name!r}")
        part = upload / f"{name}.part"
        await _write(part, body, entry.bytes + (_DELTA_SLACK if base else 0))
        if base is not None:
            part = await asyncio.to_thread(self._apply, base, name, part, entry.bytes)
        if not await asyncio.to_thread(_matches, part, entry):
            part.unlink()
            raise VersionError(f"{name} of {directory} arrived damaged: it does not match its checksum")
        part.rename(upload / name)

    def accepted(self, directory: Path) -> None:
        """Called once the version serves. If it was uploaded, remove older versions except `keep`, and later versions,
        which belong to a run that was rolled back.
        """
        if directory not in self._sent:
            return
        self._sent.remove(directory)
        stored = committed_versions(self.root)
        if directory not in stored:
            return
        stale = stored[: stored.index(directory)] + stored[stored.index(directory) + self._keep :]
        for other in stale:
            _remove(other)

    def refused(self, directory: Path) -> None:
        """Called if the version cannot be served: remove it if it was uploaded. A trainer's directory stays."""
        if directory in self._sent:
            self._sent.remove(directory)
            _remove(directory)

    def _apply(self, base: str, name: str, delta: Path, size: int) -> Path:
        source = self.root / Path(base).name / name
        restored = delta.with_suffix(".whole")
        restored.unlink(missing_ok=True)
        try:
            apply_delta(source, delta, restored, size)
        except (OSError, DeltaError, SafetensorsError) as error:
            restored.unlink(missing_ok=True)
            raise VersionError(f"the delta of {name} to {base} cannot be applied: {error}") from error
        finally:
            delta.unlink()
        return restored

    def _reuse(self, name: str, manifest: Manifest, upload: Path, stored: list[Path]) -> bool:
        """Whether the file is already here, from an earlier attempt or linked from another version."""
        wanted = manifest.files[name]
        target = upload / name
        if _matches(target, wanted):
            return True
        target.unlink(missing_ok=True)
        for directory in stored:
            with contextlib.suppress(VersionError, FileNotFoundError):  # it has another schema, or is being removed
                if read_manifest(directory).files.get(name) == wanted and _matches(directory / name, wanted):
                    _link(directory / name, target)
                    return True
        return False

    def _commit(self, upload: Path, directory: Path) -> None:
        """Verify an upload and make it a committed version."""
        missing = [name for name in self._manifest(upload).files if not (upload / name).is_file()]
        if missing:
            raise VersionError(f"{directory.name} is incomplete: {', '.join(missing)} was not uploaded")
        try:
            verify_files(upload, self._manifest(upload))
        except VersionError:
            shutil.rmtree(upload)  # all checksums matched on arrival: the manifest or the disk is at fault
            raise
        _remove(directory)  # equal weights of another incarnation, or the rest of a crash
        upload.rename(directory)
        (directory / COMMITTED_FILE).touch()
        self._sent.add(directory)

    def _remove_uploads(self, all_but: Path) -> None:
        """Remove unfinished uploads except `all_but`, and any link, even at `all_but`."""
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
    """Committed versions whose files match their checksums, the newest first."""
    for directory in committed_versions(root) if root else []:
        with contextlib.suppress(VersionError):
            verify(directory)
            yield directory


def newest_intact(root: Path | None) -> Path | None:
    """The newest of `intact_versions`, if any."""
    return next(intact_versions(root), None)


def _matches(file: Path, wanted: ManifestFile) -> bool:
    """Whether a file matches its manifest entry. A symbolic link does not."""
    try:
        found = file.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == wanted.bytes and file_blake3(file) == wanted.blake3


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or no support for hard links
        shutil.copyfile(source, target)


def _remove(directory: Path) -> None:
    """Remove a version; its marker is removed first, so that a partial version is never read."""
    (directory / COMMITTED_FILE).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def _create(path: Path, data: bytes) -> None:
    """Write a new file. An existing symbolic or hard link is replaced, not written through."""
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
                raise VersionError(f"{path.name.removesuffix('.part')} is larger than its manifest says")
            file.write(chunk)
