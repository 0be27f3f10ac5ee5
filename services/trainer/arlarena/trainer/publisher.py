"""New weights for the policy servers: write a version directory, push it in vLLM's four phases, and probe what is
served.

A push that answered 200 is not believed: the server scores a fixed probe, and its log-probs must be the trainer's. An
engine that restarts loads the newest committed directory by itself, so a push that meets a restarting server is
simply tried again.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import PolicyVersion
from arlarena.proto.weights import (
    COMMITTED_FILE,
    MANIFEST_FILE,
    file_sha256,
    safetensors_digest,
    version_directory_name,
)
from arlarena.trainer.checkpoint import sync_directory

# Between two attempts at a push, in seconds: a tiny engine restarts in about five.
_RETRY_PAUSE_S = 0.5


class PushError(RuntimeError):
    """A policy server did not take the new weights, or serves others than it was given."""


@dataclass(frozen=True, slots=True)
class Version:
    """A committed version directory."""

    version: PolicyVersion
    path: Path


class VersionStore:
    """The version directories of one run."""

    def __init__(self, root: Path, tokenizer: Path, incarnation: str, keep: int) -> None:
        """`tokenizer`: where the tokenizer files that go into each version come from; `keep` newest versions stay."""
        self.root, self.incarnation = root, incarnation
        self._tokenizer, self._keep = tokenizer, keep

    def write(self, model: PreTrainedModel, weights: Mapping[str, Tensor], step: int) -> Version:
        """Write `model` with the `weights` of `step` as an ordinary Hugging Face directory with manifest and marker."""
        partial = self.root / f".partial-{step:06d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        model.save_pretrained(partial, state_dict=dict(weights))
        copy_tokenizer(self._tokenizer, partial)
        digest = safetensors_digest(*sorted(partial.glob("*.safetensors")))
        files = {file.name: {"sha256": file_sha256(file), "bytes": file.stat().st_size} for file in partial.iterdir()}
        version = PolicyVersion(self.incarnation, step, digest)
        manifest = {"schema": 1, "version": {"incarnation": version.incarnation, "step": step, "digest": digest}}
        (partial / MANIFEST_FILE).write_text(json.dumps(manifest | {"files": files}, indent=1))
        for file in partial.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        target = self.root / version_directory_name(step, digest)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        (target / COMMITTED_FILE).touch()
        sync_directory(self.root)
        self._forget_old()
        return Version(version, target)

    def discard_after(self, step: int) -> None:
        """Remove versions newer than `step`: a resumed run never took those steps."""
        for path in self._directories():
            if int(path.name[1:7]) > step:
                shutil.rmtree(path)

    def _directories(self) -> list[Path]:
        return sorted(path for path in self.root.glob("v??????-*") if path.is_dir())

    def _forget_old(self) -> None:
        for path in self._directories()[: -self._keep]:
            (path / COMMITTED_FILE).unlink(missing_ok=True)
            shutil.rmtree(path)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Put the tokenizer of `source`, a directory or a hub name, beside the weights in `target`."""
    if not source.is_dir():
        AutoTokenizer.from_pretrained(str(source)).save_pretrained(target)
        return
    for file in source.iterdir():
        if "token" in file.name or file.name in ("vocab.json", "merges.txt", "chat_template.jinja"):
            shutil.copy2(file, target / file.name)


@dataclass(frozen=True, slots=True)
class Probe:
    """A fixed text of token ids. What the server says of it must be what the trainer computes."""

    ids: tuple[int, ...]

    @classmethod
    def of(cls, vocabulary: int, length: int = 24) -> Probe:
        """Ids spread over the whole vocabulary, so that every row of the embedding has a chance to be wrong."""
        return cls(tuple((7 + 31 * i) % vocabulary for i in range(length)))


class Publisher:
    """Pushes versions to every policy server of a run."""

    def __init__(
        self, urls: Sequence[str], probe: Probe, *, timeout_s: float, patience_s: float, tolerance: float, log: Logger
    ) -> None:
        """`timeout_s` bounds each request, `patience_s` a whole push with its retries."""
        self._urls = [url.rstrip("/") for url in urls]
        self._probe, self._tolerance, self._log = probe, tolerance, log
        self._timeout_s, self._patience_s = timeout_s, patience_s

    async def push(self, version: Version, log_probs: Callable[[Sequence[int], Sequence[int]], list[float]]) -> float:
        """Bring every server to `version` and verify it. Returns the largest |Δ log-prob| of the probe.

        `log_probs` gives the trainer's own of a response after a prompt, at temperature 1.

        Raises:
            PushError: a server refused, or kept failing for `patience_s`.
        """
        expected = log_probs(self._probe.ids[:1], self._probe.ids[1:])
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            pushes = (self._push_one(session, url, version, expected) for url in self._urls)
            return max(await asyncio.gather(*pushes), default=0.0)

    async def _push_one(
        self, session: aiohttp.ClientSession, url: str, version: Version, expected: list[float]
    ) -> float:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                if await self._served(session, url) != str(version.version):
                    await self._phases(session, url, version)
                return await self._verify(session, url, version, expected)
            except (aiohttp.ClientError, TimeoutError, PushError) as error:
                reason = str(error) or type(error).__name__
                if time.monotonic() > deadline:
                    raise PushError(
                        f"{url} did not take {version.version} within {self._patience_s:.0f} s; last: {reason}"
                    ) from error
                self._log.warning("push_retry", url=url, version=str(version.version), reason=reason)
                await asyncio.sleep(_RETRY_PAUSE_S)

    async def _phases(self, session: aiohttp.ClientSession, url: str, version: Version) -> None:
        update = {"update_info": {"path": str(version.path.resolve())}}
        await self._post(session, f"{url}/pause?mode=keep")
        try:
            await self._post(session, f"{url}/start_weight_update")
            await self._post(session, f"{url}/update_weights", update)
            await self._post(session, f"{url}/finish_weight_update", {"weight_version": str(version.version)})
            await self._post(session, f"{url}/reset_prefix_cache")
        finally:
            await self._post(session, f"{url}/resume")

    async def _served(self, session: aiohttp.ClientSession, url: str) -> str:
        async with session.get(f"{url}/weight_info") as response:
            if response.status != 200:
                raise PushError(f"{url}/weight_info answered {response.status}")
            return str((await response.json())["weight_version"])

    async def _verify(self, session: aiohttp.ClientSession, url: str, version: Version, expected: list[float]) -> float:
        body = {"prompt": list(self._probe.ids), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        answer = await self._post(session, f"{url}/v1/completions", body)
        scored = answer["choices"][0]["prompt_logprobs"][1:]
        served = [float(entry[str(token)]["logprob"]) for entry, token in zip(scored, self._probe.ids[1:], strict=True)]
        worst = max(abs(a - b) for a, b in zip(served, expected, strict=True))
        if worst > self._tolerance:
            raise PushError(
                f"{url} says it serves {version.version}, but its log-probs of the probe differ by {worst:.2e} "
                f"(allowed {self._tolerance:.0e}): the weights in use are not the ones pushed"
            )
        return worst

    async def _post(self, session: aiohttp.ClientSession, url: str, body: dict[str, Any] | None = None) -> Any:
        async with session.post(url, json=body if body is not None else {}) as response:
            if response.status != 200:
                raise PushError(f"{url} answered {response.status}: {(await response.text())[:300]}")
            return await response.json(content_type=None)
