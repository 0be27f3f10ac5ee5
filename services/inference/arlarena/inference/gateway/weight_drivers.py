"""Sends new weights to a replica. A driver for an ARLArena policy server first uploads the missing files, and then
sends one request that updates the weights. The driver for vLLM sends one request for each phase of an update.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import aiohttp
import msgspec

from arlarena.client.weights import PushError, PushRefused, Sender, WeightsClient
from arlarena.inference.weights.versions import ProbeError, Source, VersionError, check_probe, read_manifest
from arlarena.proto.versions.directory import Manifest, push_limit_s

_INFO_S = 5.0  # seconds; time limit of a request that needs no computation
_TOP_PRIORITY = -1000  # vLLM runs a request with this priority before all waiting requests
_PERMANENT = (400, 404, 413)  # after a response with one of these statuses, the same push can never succeed
TRANSIENT = (aiohttp.ClientError, OSError, TimeoutError, PushError)  # after one of these errors, a retry can succeed


class RestartNeeded(PushError):
    """A push failed after it had begun to change the weights, or the request for its probe failed. The weights are
    unknown or were not probed, so the replica must be restarted.
    """


class Driver(Protocol):
    """Controls the weights of one replica. A probe computes log-probs with new weights and compares them with the
    trainer's log-probs. `probes_before_serving`: True if the replica probes new weights before it samples with them.
    """

    probes_before_serving: bool

    async def version(self) -> str:
        """Returns the label of the version in service.

        Raises:
            aiohttp.ClientError, TimeoutError, PushError: the replica gave no valid response.
        """

    async def push(self, source: Source) -> float | None:
        """Bring a version into service. Returns the result of the probe: the largest absolute difference between the
        replica's log-probs and the trainer's log-probs. Returns None if the version has no probe.

        Raises:
            ProbeError: a log-prob differs too much from the trainer's log-prob.
            VersionError: the version cannot be read or is invalid.
            RestartNeeded: the push failed after it had begun, or the request for the probe failed. The replica must be
                restarted.
            aiohttp.ClientError, TimeoutError, PushError: the push failed, but a retry can succeed.
        """


class ServiceDriver:
    """Controls an ARLArena policy server, which probes new weights before it samples with them."""

    probes_before_serving = True

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str | None) -> None:
        self._client = WeightsClient(session, url, token)
        self._sender = Sender()

    async def version(self) -> str:
        """Returns the version in service."""
        return await self._client.version()

    async def push(self, source: Source) -> float | None:
        """Bring a version into service. First upload the files that the server does not have. (For a broadcast, no
        files are uploaded.) Then send the request `/serve_weights`.
        """
        manifest, broadcast = _manifest(source), None
        try:
            if isinstance(source, Path):
                await self._sender.deliver(source, self._client)
            else:
                broadcast = source
            return (await self._client.serve(manifest.label, push_limit_s(manifest.bytes), broadcast)).probe
        except PushRefused as error:
            raise ProbeError(str(error)) from error
        except PushError as error:
            if error.status in _PERMANENT:
                raise VersionError(str(error)) from error
            raise
        finally:
            self._sender.forget()


class VllmDriver:
    """Controls a vLLM server on this machine. The probe is an ordinary request to vLLM. So the probe runs only after
    vLLM has begun to sample with the new weights.
    """

    probes_before_serving = False

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def version(self) -> str:
        """Returns the version in service."""
        async with self._session.get(f"{self._url}/weight_info", timeout=_timeout(_INFO_S)) as reply:
            answer = await _json(reply)
        return str(answer["weight_version"])

    async def push(self, source: Source) -> float | None:
        """Bring a version into service. If the probe fails, vLLM is paused and its running requests are aborted."""
        manifest = _manifest(source)
        limit_s = push_limit_s(manifest.bytes)
        deadline = time.monotonic() + limit_s
        await self._post("/pause?mode=keep", deadline)
        try:
            await self._post("/start_weight_update", deadline)
            await self._post("/update_weights", deadline, {"update_info": _update(source, manifest.label, limit_s)})
            await self._post("/finish_weight_update", deadline, {"weight_version": manifest.label})
            await self._post("/reset_prefix_cache", deadline)
            await self._post("/resume", deadline)
            return await self._probe(manifest, deadline)
        except ProbeError:
            await self._post("/pause?mode=abort", deadline)
            raise
        except Exception as error:
            raise RestartNeeded(
                f"the push of {manifest.label} or the request for its probe failed: {error or type(error).__name__}"
            ) from error

    async def _probe(self, manifest: Manifest, deadline: float) -> float | None:
        if manifest.probe is None:
            return None
        ids = manifest.probe.ids
        body = {"prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "priority": _TOP_PRIORITY}
        answer = await self._post("/v1/completions", deadline, body)
        scored = answer["choices"][0]["prompt_logprobs"][1:]
        served = [float(entry[str(token)]["logprob"]) for entry, token in zip(scored, ids[1:], strict=True)]
        return check_probe(manifest.directory, manifest.probe, served)

    async def _post(self, path: str, deadline: float, body: object = None) -> Any:
        timeout = _timeout(max(0.1, deadline - time.monotonic()))
        async with self._session.post(self._url + path, json={} if body is None else body, timeout=timeout) as reply:
            return await _json(reply)


def _manifest(source: Source) -> Manifest:
    return read_manifest(source) if isinstance(source, Path) else source.manifest


def _update(source: Source, label: str, limit_s: float) -> dict[str, object]:
    """Returns the body of `/update_weights`, with the fields of `vllm.extension.Source`."""
    if isinstance(source, Path):
        return {"path": str(source.resolve())}
    sender = {"host": source.host, "port": source.port, "backend": source.backend}
    return {**sender, "group": uuid4().hex, "version": label, "limit_s": limit_s}


async def _json(reply: aiohttp.ClientResponse) -> Any:
    text = await reply.read()
    if reply.status != 200:
        raise PushError(f"{reply.url.path} answered {reply.status}: {text[:300].decode(errors='replace')}")
    return msgspec.json.decode(text)


def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds)
