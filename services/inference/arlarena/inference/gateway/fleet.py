"""The replicas of a gateway: chooses one for each request, and brings all to the target version."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from arlarena.inference.api.errors import RequestError
from arlarena.inference.gateway.replica import Replica, Target
from arlarena.inference.weights.versions import ProbeError, Source, VersionError, verify
from arlarena.proto.telemetry import Logger
from arlarena.proto.versions.directory import ServedVersion, push_limit_s

MAX_SESSIONS = 100_000  # sessions whose replica is remembered, with LRU eviction


class Fleet:
    """The replicas of a gateway."""

    def __init__(self, replicas: list[Replica], slack: int, log: Logger) -> None:
        """`slack`: how many more requests than the least busy replica a session's replica may have."""
        self.replicas = replicas
        self.target: Target | None = None
        self._slack, self._log = slack, log
        self._count = 0
        self._sessions: OrderedDict[str, Replica] = OrderedDict()
        self._change = asyncio.Event()  # set, and replaced, at every change of a replica's state
        for replica in replicas:
            replica.changed = self._changed

    async def maintain(self) -> None:
        """Monitor all replicas; never returns."""
        async with asyncio.TaskGroup() as group:
            for replica in self.replicas:
                group.create_task(replica.maintain(lambda: self.target))

    # --- requests ---

    async def pick(self, session: str | None, avoid: set[Replica], wait_s: float) -> Replica:
        """The replica for a request: its session's replica, else the least busy one.

        Raises:
            RequestError: 503, no replica became available within `wait_s`.
        """
        deadline = time.monotonic() + wait_s
        while not (candidates := [r for r in self.replicas if r.open and r not in avoid]):
            await self._wait(deadline, self._no_replica_message())
        least_busy = min(candidates, key=lambda replica: (replica.in_flight, replica.asked_last))
        if session is None:
            return self._selected(least_busy)
        chosen = self._sessions.get(session)
        if chosen is None or chosen not in candidates or chosen.in_flight > least_busy.in_flight + self._slack:
            chosen = least_busy
        self._sessions[session] = chosen
        self._sessions.move_to_end(session)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return self._selected(chosen)

    def _selected(self, replica: Replica) -> Replica:
        self._count += 1
        replica.asked_last = self._count
        return replica

    def _no_replica_message(self) -> str:
        states = ", ".join(f"{replica.name} is {replica.state}" for replica in self.replicas)
        return f"no replica can take the request now: {states}"

    # --- weights ---

    async def serve(self, source: Source) -> ServedVersion:
        """Bring every reachable replica to a version. An unreachable replica gets the version before its next request.
        If a replica refuses the version, all replicas return to the previous version.

        Raises:
            ProbeError: a replica computes other log-probs. VersionError: the version is damaged or cannot be loaded.
            RequestError: 503, no replica served the version in time.
        """
        if isinstance(source, Path):
            manifest = await asyncio.to_thread(verify, source)  # if it fails, the old version stays in service
        else:
            manifest = source.manifest
        target, before = Target(manifest.label, source), self.target
        if before is not None and before.label == target.label:
            before = None
        self._set_target(target)
        deadline = time.monotonic() + push_limit_s(manifest.bytes)
        while not self._reached(target):
            await self._wait(deadline, f"no replica serves {target.label} yet. {self._no_replica_message()}")
        for replica in self.replicas:
            if why := replica.failed(target):
                error = (ProbeError if replica.state == "refused" else VersionError)(f"{replica.name}: {why}")
                self._roll_back(target, before)
                raise error
        differences = [replica.difference for replica in self.replicas if replica.difference is not None]
        return ServedVersion(target.label, max(differences, default=None))

    async def restore(self, versions: Iterator[Path]) -> None:
        """Serve the first of `versions` that the replicas accept, unless another version is pushed meanwhile."""
        while (directory := await asyncio.to_thread(next, versions, None)) is not None:
            while True:
                try:
                    await self.serve(directory)
                    return
                except VersionError as error:
                    self._log.warning("version_skipped", directory=str(directory), reason=str(error))
                    break
                except RequestError:  # the replicas are still starting
                    if self.target is None or self.target.source != directory:
                        return

    def _set_target(self, target: Target | None) -> None:
        self.target = target
        for replica in self.replicas:
            replica.wake()

    def _roll_back(self, target: Target, before: Target | None) -> None:
        """Return to the previous version. Without a previous version, clear the target only if all replicas probe
        before serving: otherwise some replicas already use the refused weights, and stay refused.
        """
        if self.target is target and (before or all(replica.driver.probes_before_serving for replica in self.replicas)):
            self._set_target(before)

    def _reached(self, target: Target) -> bool:
        """Whether at least one replica serves or has refused the target, and the others are down."""
        settled = [
            bool(replica.failed(target)) or (replica.state == "ready" and replica.version == target.label)
            for replica in self.replicas
        ]
        return any(settled) and all(
            done or replica.state == "down" for done, replica in zip(settled, self.replicas, strict=True)
        )

    # --- changes ---

    def _changed(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()

    async def _wait(self, deadline: float, why: str) -> None:
        """Wait for a change of any replica's state."""
        try:
            await asyncio.wait_for(self._change.wait(), deadline - time.monotonic())
        except TimeoutError:
            raise RequestError(why, status=503) from None
