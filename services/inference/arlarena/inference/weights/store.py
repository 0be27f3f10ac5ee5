"""The version directories that this server has: the trainer's own where it shares them, or copies that were sent."""

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

_DELTA_SLACK = 1 << 20  # bytes by which a delta may be larger than the file


class UnknownVersion(VersionError):
    """A version that this server has not."""


class Store:
    """A folder of version directories. What is sent lies in a hidden one until it is whole and verified:

    announce(directory, manifest) -> receive(directory, file, …) for each that is wanted -> find(label) commits it
    -> accepted(directory) once it serves, or refused(directory)

    No other version is removed before this one serves: a server that is started again finds the newest good one.
    """

    def __init__(self, root: Path | None, keep: int) -> None:
        """`keep`: how many newest versions stay when one that was sent is accepted."""
        self._root, self._keep = root, keep
        self._sent: set[Path] = set()  # committed by `find` and neither accepted nor refused yet

    @property
    def root(self) -> Path:
        """The folder.

        Raises:
            VersionError: none is set.
        """
        if self._root is None:
            raise VersionError("this server takes no weights: set [inference] weights_root")
        return self._root

    def find(self, label: str) -> Path:
        """The directory of a version; if it has just been sent, it is verified and committed.

        Raises:
            UnknownVersion: it is not here. VersionError: what was sent is not whole.
        """
        try:
            version = PolicyVersion.parse(label)
        except ValueError as error:
            raise UnknownVersion(f"{label!r} is not a version: {error}") from error
        name = version_directory_name(version.step, version.digest)
        directory, arrived = self.root / name, self._hidden(name)
        if (arrived / MANIFEST_FILE).is_file() and self._manifest(arrived).label == label:
            self._commit(arrived, directory)
        if not (directory / COMMITTED_FILE).is_file():
            raise UnknownVersion(f"{label} is neither in {self.root} nor was it sent")
        found = read_manifest(directory).label
        if found != label:
            raise UnknownVersion(f"{directory} holds {found} and not {label}")
        return directory

    def announce(self, directory: str, text: bytes) -> PushTarget:
        """Begin to receive the version of this manifest, or go on with it; what is still missing.

        Raises:
            VersionError: the manifest is malformed or another directory's.
        """
        manifest = parse_manifest(text, f"the manifest of {directory}")
        if manifest.directory != directory:
            raise VersionError(f"the manifest is that of {manifest.directory}, not of {directory}")
        committed = self.root / directory
        if (committed / COMMITTED_FILE).is_file() and read_manifest(committed) == manifest:
            return PushTarget([])
        hidden = self._hidden(directory)
        self._remove_hidden(all_but=hidden)
        hidden.mkdir(exist_ok=True)
        _create(hidden / MANIFEST_FILE, text)
        stored = committed_versions(self.root)
        missing = [name for name in manifest.files if not self._have(name, manifest, hidden, stored)]
        return PushTarget(missing, stored[0].name if stored else None)

    async def receive(self, directory: str, name: str, body: AsyncIterator[bytes], base: str | None) -> None:
        """Take one file of an announced version, or a delta to the file of the same name in `base`.

        Raises:
            VersionError: nothing like it was announced, or it does not match its checksum.
        """
        hidden = self._hidden(directory)
        if not (hidden / MANIFEST_FILE).is_file():
            raise VersionError(f"{directory} was not announced")
        entry = self._manifest(hidden).files.get(name)
        if entry is None:
            raise VersionError(f"the manifest of {directory} does not list {name!r}")
        part = hidden / f"{name}.part"
        await _write(part, body, entry.bytes + (_DELTA_SLACK if base else 0))
        if base is not None:
            part = await asyncio.to_thread(self._apply, base, name, part, entry.bytes)
        if not await asyncio.to_thread(_is, part, entry):
            part.unlink()
            raise VersionError(f"{name} of {directory} arrived damaged: it does not match its checksum")
        part.rename(hidden / name)

    def accepted(self, directory: Path) -> None:
        """The version serves: if it was sent, older ones go but for `keep`, and so do later ones, of a run that was
        set back.
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
        """The version cannot be served: if it was sent, it goes. A trainer's own directory stays."""
        if directory in self._sent:
            self._sent.remove(directory)
            _remove(directory)

    def _apply(self, base: str, name: str, delta: Path, size: int) -> Path:
        source = self.root / Path(base).name / name
        whole = delta.with_suffix(".whole")
        whole.unlink(missing_ok=True)
        try:
            apply_delta(source, delta, whole, size)
        except (OSError, DeltaError, SafetensorsError) as error:
            whole.unlink(missing_ok=True)
            raise VersionError(f"the delta of {name} to {base} cannot be applied: {error}") from error
        finally:
            delta.unlink()
        return whole

    def _have(self, name: str, manifest: Manifest, hidden: Path, stored: list[Path]) -> bool:
        """Whether a file is here already, by an earlier attempt or as a part of another version."""
        wanted = manifest.files[name]
        target = hidden / name
        if _is(target, wanted):
            return True
        target.unlink(missing_ok=True)
        for directory in stored:
            with contextlib.suppress(VersionError, FileNotFoundError):  # of another schema, or being removed
                if read_manifest(directory).files.get(name) == wanted and _is(directory / name, wanted):
                    _link(directory / name, target)
                    return True
        return False

    def _commit(self, arrived: Path, directory: Path) -> None:
        """Make what was sent a committed version, once it is verified."""
        missing = [name for name in self._manifest(arrived).files if not (arrived / name).is_file()]
        if missing:
            raise VersionError(f"{directory.name} is not whole: {', '.join(missing)} was not sent")
        try:
            verify_files(arrived, self._manifest(arrived))
        except VersionError:
            shutil.rmtree(arrived)  # each file had its checksum: what is wrong is the manifest, or the disk
            raise
        _remove(directory)  # equal weights of another incarnation, or what a crash left
        arrived.rename(directory)
        (directory / COMMITTED_FILE).touch()
        self._sent.add(directory)

    def _remove_hidden(self, all_but: Path) -> None:
        """Remove uploads that were never finished, and a link in the place of the one that begins."""
        for other in self.root.glob(".incoming-*"):
            if other.is_symlink() or not other.is_dir():
                other.unlink()
            elif other != all_but:
                shutil.rmtree(other, ignore_errors=True)

    def _hidden(self, directory: str) -> Path:
        return self.root / f".incoming-{Path(directory).name}"

    def _manifest(self, hidden: Path) -> Manifest:
        return parse_manifest((hidden / MANIFEST_FILE).read_bytes(), f"the manifest of {hidden.name}")


def whole_versions(root: Path | None) -> Iterator[Path]:
    """Committed versions whose files match their checksums, the newest first."""
    for directory in committed_versions(root) if root else []:
        with contextlib.suppress(VersionError):
            verify(directory)
            yield directory


def newest_whole(root: Path | None) -> Path | None:
    """The first of `whole_versions`."""
    return next(whole_versions(root), None)


def _is(file: Path, wanted: ManifestFile) -> bool:
    """Whether a file is the one that a manifest means. A link is not."""
    try:
        found = file.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == wanted.bytes and file_blake3(file) == wanted.blake3


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _remove(directory: Path) -> None:
    """Remove a version; its marker goes first, so that half of it is never read."""
    (directory / COMMITTED_FILE).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def _create(path: Path, data: bytes) -> None:
    """Write a new file. Neither a link nor a hard link that is there already is followed."""
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
