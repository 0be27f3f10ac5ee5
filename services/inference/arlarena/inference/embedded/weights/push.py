"""New weights for the embedded engine: whatever goes wrong, the old ones stay in service and sampling goes on.

    serve                                                          all of it; sampling does not stop
    pause -> start_weight_update -> update_weights -> finish_weight_update -> (reset_prefix_cache) -> resume

The second is vLLM's way. Whoever dies between two phases of it cannot stop the rollouts: `limit_s` after the last phase
the push is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from arlarena.inference.api.errors import RequestError
from arlarena.inference.embedded.engine import Engine, EngineDeadError
from arlarena.inference.embedded.weights.loading import LoadedVersion, load_version
from arlarena.inference.weights.versions import Source, VersionError, read_manifest
from arlarena.proto.telemetry import Logger
from arlarena.proto.versions.directory import ServedVersion

T = TypeVar("T")
PauseMode = Literal["keep", "wait", "abort"]
Phase = Literal["serving", "paused", "started", "loaded", "finished"]

_DRAIN_POLL_S = 0.005  # `mode=wait` looks this often whether the running sequences have finished


class WeightPush:
    """The state of the push in progress, if any. All methods belong to the event loop; they run one after another."""

    def __init__(
        self, engine: Engine, loaded: LoadedVersion, weights_root: Path | None, limit_s: float, log: Logger
    ) -> None:
        """`loaded`: what the engine serves now."""
        self._engine = engine
        self._serving = ServedVersion(loaded.label, loaded.difference)
        self._root = None if weights_root is None else weights_root.resolve()
        self._limit_s = limit_s
        self._log = log
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._loaded: LoadedVersion | None = None
        self._epoch = 0  # counts pushes given up: a load that ends after that is not used
        self.phase: Phase = "serving"
        self.outcomes = {"finished": 0, "failed": 0, "expired": 0}

    async def serve(self, source: Source) -> ServedVersion:
        """Load and probe a version beside the weights in service, then swap between two steps of the engine.

        Raises:
            VersionError: the directory cannot be served. RequestError: 503 while a push by phases goes on.
        """
        async with self._lock:
            if self.phase != "serving":
                raise RequestError(f"a push by phases goes on ({self.phase}); try again", status=503)
            try:
                if not isinstance(source, Path):
                    raise VersionError("the embedded engine reads weights from files: push_transport shared or http")
                if read_manifest(source).label != self._engine.version:
                    await self._swap(await asyncio.to_thread(load_version, source, self._engine.arch))
            except VersionError as error:
                self.outcomes["failed"] += 1
                self._log.error("push_failed", reason=str(error), serving=self._engine.version)
                raise
            return self._serving

    async def pause(self, mode: PauseMode) -> None:
        """Stop sampling: `keep` freezes what is in flight, `wait` lets running sequences finish, `abort` ends all."""
        async with self._lock:
            self._rearm()
            self.phase = "paused"
            self._loaded = None
            if mode == "wait":
                await self._drained()
            elif mode == "abort":
                await self._on_engine(self._engine.abort_all)
            await self._on_engine(self._engine.pause)

    async def start(self) -> None:
        """Begin an update; sampling must be paused."""
        async with self._lock:
            await self._expect("start_weight_update", "paused", "finished")
            self._loaded = None
            self.phase = "started"
            self._rearm()

    async def update(self, path: Path) -> str:
        """Verify and load a version directory beside the weights in service. Returns its version."""
        async with self._lock:
            await self._expect("update_weights", "started", "loaded")
            epoch = self._epoch
            try:
                self._check_location(path)
                loaded = await asyncio.to_thread(load_version, path, self._engine.arch)
            except VersionError as error:
                raise await self._failed(f"the weights were refused: {error}", 400) from error
            if self._epoch != epoch:
                raise await self._failed("loading took longer than pause_limit_s, so the push was given up", 409)
            self._loaded = loaded
            self.phase = "loaded"
            self._rearm()
            return loaded.label

    async def finish(self, label: str | None) -> str:
        """Put the loaded weights into service; prompts computed with the old ones are dropped. Returns the version."""
        async with self._lock:
            await self._expect("finish_weight_update", "loaded")
            loaded = self._loaded
            assert loaded is not None
            if label is not None and label != loaded.label:
                raise await self._failed(f"weight_version is {label!r}, but the directory holds {loaded.label!r}", 400)
            await self._swap(loaded)
            self._loaded = None
            self.phase = "finished"
            self._rearm()
            return loaded.label

    async def resume(self) -> None:
        """Sample again. Without a pause this does nothing."""
        async with self._lock:
            await self._end()

    async def _swap(self, loaded: LoadedVersion) -> None:
        await self._on_engine(lambda: self._engine.swap(loaded.parameters, loaded.label))
        self._serving = ServedVersion(loaded.label, loaded.difference)
        self.outcomes["finished"] += 1
        self._log.info("weights_swapped", version=loaded.label, directory=str(loaded.directory))

    async def _expect(self, what: str, *phases: Phase) -> None:
        if self.phase not in phases:
            raise await self._failed(
                f"{what} came while the server was {self.phase}; it needs {' or '.join(phases)}", 409
            )

    async def _failed(self, why: str, status: int) -> RequestError:
        """Give the push up; the error to answer with."""
        self.outcomes["failed"] += 1
        await self._end()
        self._log.error("push_failed", reason=why, serving=self._engine.version)
        return RequestError(f"{why}. {self._engine.version} stays in service and sampling goes on", status=status)

    async def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loaded = None
        self.phase = "serving"
        await self._on_engine(self._engine.resume)

    def _rearm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._expire)

    def _expire(self) -> None:
        """Give up a push that stands still. Runs even while a phase holds the lock: that phase notices by the epoch."""
        self._epoch += 1
        self._timer = None
        self._loaded = None
        self._log.warning("push_expired", phase=self.phase, limit_s=self._limit_s, serving=self._engine.version)
        self.phase = "serving"
        self.outcomes["expired"] += 1
        with contextlib.suppress(EngineDeadError):
            self._engine.call(self._engine.resume)

    async def _drained(self) -> None:
        epoch = self._epoch
        await self._on_engine(self._engine.drain)
        while self._engine.running:
            await asyncio.sleep(_DRAIN_POLL_S)
            if self._epoch != epoch:
                raise await self._failed("the running sequences did not finish within pause_limit_s", 409)

    async def _on_engine(self, function: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._engine.call(function))

    def _check_location(self, path: Path) -> None:
        if self._root is not None and not path.resolve().is_relative_to(self._root):
            raise VersionError(f"{path} is not inside weights_root ({self._root})")
