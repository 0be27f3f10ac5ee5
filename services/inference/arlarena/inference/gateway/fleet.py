"""All replicas: which of them gets a request, and the version that all of them have to serve."""

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

MOST_SESSIONS = 100_000  # the ones that are remembered; a forgotten session is placed anew


class Fleet:
    """The replicas of a gateway."""

    def __init__(self, replicas: list[Replica], slack: int, log: Logger) -> None:
        """`slack`: by how many requests a session's replica may be busier than the idlest before the session moves."""
        self.replicas = replicas
        self.target: Target | None = None
        self._slack, self._log = slack, log
        self._count = 0
        self._sessions: OrderedDict[str, Replica] = OrderedDict()
        self._change = asyncio.Event()  # a new one for every change of a replica's state
        for replica in replicas:
            replica.changed = self._changed

    async def keep(self) -> None:
        """Look after all replicas; never returns."""
        async with asyncio.TaskGroup() as group:
            for replica in self.replicas:
                group.create_task(replica.keep(lambda: self.target))

    # --- requests ---

    async def pick(self, session: str | None, avoid: set[Replica], patience_s: float) -> Replica:
        """The replica that a request is sent to: its session's, else the least busy one.

        Raises:
            RequestError: 503, for `patience_s` there is none that can take it.
        """
        deadline = time.monotonic() + patience_s
        while not (candidates := [r for r in self.replicas if r.open and r not in avoid]):
            await self._wait(deadline, self._why_none())
        idlest = min(candidates, key=lambda replica: (replica.in_flight, replica.asked_last))
        if session is None:
            return self._asked(idlest)
        own = self._sessions.get(session)
        if own is None or own not in candidates or own.in_flight > idlest.in_flight + self._slack:
            own = idlest
        self._sessions[session] = own
        self._sessions.move_to_end(session)
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return self._asked(own)

    def _asked(self, replica: Replica) -> Replica:
        self._count += 1
        replica.asked_last = self._count
        return replica

    def _why_none(self) -> str:
        states = ", ".join(f"{replica.name} is {replica.state}" for replica in self.replicas)
        return f"no replica can take the request now: {states}"

    # --- weights ---

    async def serve(self, source: Source) -> ServedVersion:
        """Bring every replica that answers to a version. One that does not is brought to it before it is asked again.
        A version that one refuses is given up, and all go back to the one before.

        Raises:
            ProbeError: a replica computes something else. VersionError: it is damaged, or one cannot load it.
            RequestError: 503, no replica came to serve it in time.
        """
        if isinstance(source, Path):
            manifest = await asyncio.to_thread(verify, source)  # else the old version goes on being served
        else:
            manifest = source.manifest
        target, before = Target(manifest.label, source), self.target
        if before is not None and before.label == target.label:
            before = None
        self._want(target)
        deadline = time.monotonic() + push_limit_s(manifest.bytes)
        while not self._arrived(target):
            await self._wait(deadline, f"no replica serves {target.label} yet. {self._why_none()}")
        for replica in self.replicas:
            if why := replica.failed(target):
                error = (ProbeError if replica.state == "refused" else VersionError)(f"{replica.name}: {why}")
                self._give_up(target, before)
                raise error
        differences = [replica.difference for replica in self.replicas if replica.difference is not None]
        return ServedVersion(target.label, max(differences, default=None))

    async def restore(self, versions: Iterator[Path]) -> None:
        """Serve the first of `versions` that the replicas take, unless another is pushed meanwhile."""
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

    def _want(self, target: Target | None) -> None:
        self.target = target
        for replica in self.replicas:
            replica.look_again()

    def _give_up(self, target: Target, before: Target | None) -> None:
        """Go back to the version before. Without one, only where nothing was sampled by weights that were refused:
        other replicas have them in use, and stay refused.
        """
        if self.target is target and (before or all(replica.driver.checks_first for replica in self.replicas)):
            self._want(before)

    def _arrived(self, target: Target) -> bool:
        """Whether a replica serves it, or does not take it, and none is on the way."""
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
