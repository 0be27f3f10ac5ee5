"""Brings new weights into service in the embedded engine. If a push fails, sampling continues with the old weights."""

from __future__ import annotations

import asyncio
from pathlib import Path

from arlarena.inference.embedded.engine import Engine
from arlarena.inference.embedded.weights.loading import LoadedVersion, load_version
from arlarena.inference.weights.versions import Source, VersionError, read_manifest
from arlarena.proto.telemetry import Logger
from arlarena.proto.versions.directory import ServedVersion


class WeightPush:
    """Brings versions of the weights into service, one at a time. `outcomes`: the numbers of finished and failed
    pushes.
    """

    def __init__(self, engine: Engine, loaded: LoadedVersion, log: Logger) -> None:
        """`loaded`: the version that is in service at the start."""
        self._engine = engine
        self._serving = ServedVersion(loaded.label, loaded.difference)
        self._log = log
        self._lock = asyncio.Lock()
        self.outcomes = {"finished": 0, "failed": 0}

    async def serve(self, source: Source) -> ServedVersion:
        """Load a version and check its probe. The engine continues with the old weights meanwhile. Then replace the old
        weights between two steps of the engine. Does not load the version if it is already in service.

        Raises:
            VersionError: the version cannot be served, or `source` is a broadcast.
            EngineDeadError: the engine has stopped.
        """
        async with self._lock:
            try:
                if not isinstance(source, Path):
                    raise VersionError(
                        'the embedded engine cannot receive a broadcast: set push_transport = "shared" or "http"'
                    )
                if read_manifest(source).label != self._engine.version:
                    await self._swap(await asyncio.to_thread(load_version, source, self._engine.arch))
            except VersionError as error:
                self.outcomes["failed"] += 1
                self._log.error("push_failed", reason=str(error), serving=self._engine.version)
                raise
            return self._serving

    async def _swap(self, loaded: LoadedVersion) -> None:
        await asyncio.wrap_future(self._engine.call(lambda: self._engine.swap(loaded.parameters, loaded.label)))
        self._serving = ServedVersion(loaded.label, loaded.difference)
        self.outcomes["finished"] += 1
        self._log.info("weights_swapped", version=loaded.label, directory=str(loaded.directory))
