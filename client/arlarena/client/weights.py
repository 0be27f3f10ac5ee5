"""Pushes weights to a policy server over HTTP: uploads a version directory, and makes the server serve this version.

    async with aiohttp.ClientSession(auto_decompress=False) as session:
        server = WeightsClient(session, "http://10.0.0.7:8100", token)
        await Sender().deliver(Path("RUN/weights/v000012-0a1b2c3d4e5f"), server)
        served = await server.serve("d1f0:12:0a1b2c3d4e5f…", limit_s=60)

`arlarena.proto.versions.directory` describes the routes. All requests are idempotent. If the server reads the version
directories from a shared disk, call only `serve`.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec

from arlarena.client.bounded import IDENTITY, read_bounded
from arlarena.proto.http.addresses import service_url
from arlarena.proto.policy import ErrorResponse, WeightInfo
from arlarena.proto.versions.delta import write_delta
from arlarena.proto.versions.directory import (
    COMMITTED_FILE,
    MANIFEST_FILE,
    SERVE_ROUTE,
    WEIGHTS_ROUTE,
    Broadcast,
    Manifest,
    PushTarget,
    ServedVersion,
    ServeWeights,
    push_limit_s,
)

T = TypeVar("T")

_INFO_S = 10.0  # timeout of a request for information, in seconds
_REFUSED = 409  # HTTP status of a push that the server refuses
_FOLDER_PREFIX = "arlarena-push-"  # prefix of the names of temporary folders with deltas
_STALE_S = 86_400.0  # one day; no push takes this time, so an older temporary folder is unused
_MAX_ANSWER = 1 << 20  # maximum bytes of a response; the largest response lists the files of a model


class PushError(RuntimeError):
    """A push to a policy server failed. A retry may succeed. `status`: HTTP status, or None without a response."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PushRefused(PushError):
    """A push failed, and a retry would fail again.

    Either the server's probe of the weights failed, or the server requested a file that the version does not contain.
    """


class WeightsClient:
    """A client for the weights of one policy server or gateway.

    In all methods, `limit_s` is the timeout of one request in seconds. `version_name` is the name of a version
    directory, such as `v000012-0a1b2c3d4e5f`.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str | None) -> None:
        """`url`: the server's base URL. `token`: the server's admin token. Raises the errors of `service_url`."""
        self.url = service_url(url)
        self._session = session
        self._headers = IDENTITY | ({"authorization": f"Bearer {token}"} if token else {})

    async def version(self) -> str:
        """Returns the served version. Raises the errors of `serve`."""
        return (await self._ask("GET", "/weight_info", None, _INFO_S, WeightInfo)).weight_version

    async def announce(self, version_name: str, manifest: bytes, limit_s: float) -> PushTarget:
        """Announce a version. Returns which files the server needs. `manifest`: the bytes of the version's manifest.

        Raises the errors of `serve`.
        """
        return await self._ask("PUT", f"{WEIGHTS_ROUTE}/{version_name}", manifest, limit_s, PushTarget)

    async def upload(self, version_name: str, file_name: str, file: Path, base: str | None, limit_s: float) -> None:
        """Send the file `file_name` of a version. Raises the errors of `serve`.

        `file`: the path of the data to send. If `base` is None, the data is the complete file. Otherwise it is a delta:
        the server applies it to the file `file_name` in the version directory with the name `base`.
        """
        query = f"?base={base}" if base else ""
        with file.open("rb") as body:
            await self._ask("PUT", f"{WEIGHTS_ROUTE}/{version_name}/{file_name}{query}", body, limit_s, dict)

    async def serve(self, version: str, limit_s: float, broadcast: Broadcast | None = None) -> ServedVersion:
        """Make the server serve `version` (incarnation:step:digest). Returns the served version and the probe's result.

        Without `broadcast`, the server loads the weights from its version directories. With `broadcast`, it receives
        the weights from the trainer. The probe is a test of the weights: the server computes the log-probs of a few
        tokens and compares them with the trainer's log-probs.

        Raises:
            PushRefused: the status of the response is 409, for example because the probe failed.
            PushError: the status of the response is another error, or the response is malformed.
            aiohttp.ClientError, TimeoutError: the server did not respond, or the response is a redirect, compressed or
                too large.
        """
        body = msgspec.json.encode(ServeWeights(version, broadcast))
        return await self._ask("POST", SERVE_ROUTE, body, limit_s, ServedVersion)

    async def _ask(self, method: str, path: str, body: object, limit_s: float, kind: type[T]) -> T:
        timeout = aiohttp.ClientTimeout(total=limit_s)
        url = self.url + path
        async with self._session.request(
            method, url, data=body, headers=self._headers, timeout=timeout, allow_redirects=False
        ) as reply:
            answer = await read_bounded(reply, _MAX_ANSWER)
        if reply.status != 200:
            error = PushRefused if reply.status == _REFUSED else PushError
            raise error(f"{url} answered {reply.status}: {_reason(answer)}", reply.status)
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.MsgspecError as error:
            raise PushError(f"the response of {url} is not a {kind.__name__}: {error}") from error


def _reason(answer: bytes) -> str:
    try:
        return msgspec.json.decode(answer, type=ErrorResponse).error.message
    except msgspec.MsgspecError:
        return answer[:300].decode(errors="replace")


class Sender:
    """Uploads those files of a version that a server lacks.

    If the server and this machine have the same earlier version (the base), sends only the differences (a delta).
    """

    def __init__(self, full_every: int = 20) -> None:
        """`full_every`: at optimiser steps divisible by this number, complete files are sent instead of deltas."""
        self._full_every = full_every
        self._deltas: dict[tuple[Path, Path], asyncio.Task[Path]] = {}  # (base, new) -> delta
        self._folder: Path | None = None

    async def deliver(self, directory: Path, server: WeightsClient) -> int:
        """Upload the version directory `directory` to `server`. Returns the number of bytes sent.

        Raises:
            PushRefused: the server requested a file that the version's manifest does not list. Nothing was sent.
            PushError, aiohttp.ClientError, TimeoutError: the upload failed.
        """
        text = await asyncio.to_thread((directory / MANIFEST_FILE).read_bytes)
        manifest = msgspec.json.decode(text, type=Manifest)
        limit_s, sent = push_limit_s(manifest.bytes), 0
        wanted = await server.announce(directory.name, text, limit_s)
        # Send only files in the manifest. Otherwise a server could request any file of this machine.
        if foreign := set(wanted.files) - manifest.files.keys():
            raise PushRefused(
                f"{server.url} requests {min(foreign)!r}, but the manifest of {directory.name} does not list it. "
                "Nothing was sent; check that this is the address of your policy server"
            )
        for file in dict.fromkeys(wanted.files):
            base = self._base(directory.parent, wanted.base, file, manifest.version.step)
            body = directory / file if base is None else await self._delta(base / file, directory / file)
            await server.upload(directory.name, file, body, base.name if base else None, limit_s)
            sent += body.stat().st_size
        return sent

    def forget(self) -> None:
        """Remove the temporary delta files. Call `forget` after all servers have received the version."""
        self._deltas.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _base(self, versions: Path, name: str | None, file: str, step: int) -> Path | None:
        """Returns the version directory to which a delta of `file` refers, or None if `file` must be sent completely.

        `versions`: the folder of all version directories. `name`: the base that the server offers. `step`: the
        optimiser step of the new version. Also returns None if the base is not complete or does not contain `file`.
        """
        if name is None or not file.endswith(".safetensors") or step % self._full_every == 0:
            return None
        for directory in versions.iterdir():  # never open `name` itself: the server may send any path
            if directory.name == name and (directory / COMMITTED_FILE).is_file():
                return directory if (directory / file).is_file() else None
        return None

    async def _delta(self, base: Path, new: Path) -> Path:
        """Returns the path of a file with the delta from the file `base` to the file `new`.

        The first call computes the delta. Later calls for other servers reuse it.
        """
        if self._folder is None:
            _remove_stale_folders()
            self._folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
        key = (base, new)
        if key not in self._deltas:
            target = self._folder / f"{len(self._deltas)}.delta"
            self._deltas[key] = asyncio.create_task(asyncio.to_thread(_make_delta, base, new, target))
        return await self._deltas[key]


def _remove_stale_folders() -> None:
    """Remove old temporary folders, which killed processes left. A delta file can be as large as a model."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime > _STALE_S:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:  # another process has removed it
            continue


def _make_delta(base: Path, new: Path, target: Path) -> Path:
    with target.open("wb") as out:
        write_delta(base, new, out)
    return target
