"""The fleet is all replicas of a gateway. A replica is a local engine or a remote policy server.

The fleet chooses a replica for each request. It also updates all replicas to the target, the version of the weights
that every replica must serve. All requests with the same header `x-session-id` are a session. They go to the same
replica, because this replica has their common prefix in its prefix cache.
"""

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

# The fleet stores the replicas of at most this many sessions. It forgets the least recently used session first.
MAX_SESSIONS = 100_000


class Fleet:
    """The replicas of a gateway."""

    def __init__(self, replicas: list[Replica], max_extra_requests: int, log: Logger) -> None:
        """`max_extra_requests`: a session moves to the least busy replica if the session's replica has over this many
        more requests in flight than the least busy replica.
        """
        self.replicas = replicas
        self.target: Target | None = None
        self._max_extra_requests, self._log = max_extra_requests, log
        self._requests = 0  # total number of requests
        self._sessions: OrderedDict[str, Replica] = OrderedDict()
        self._change = asyncio.Event()  # set, and replaced by a new event, when the state of any replica changes
        for replica in replicas:
            replica.on_change = self._notify

    async def maintain(self) -> None:
        """Monitor all replicas. Runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            for replica in self.replicas:
                group.create_task(replica.maintain(lambda: self.target))

    # --- requests ---

    async def pick(self, session: str | None, avoid: set[Replica], wait_s: float) -> Replica:
        """Choose the replica for a request: the session's replica if possible, otherwise the least busy replica. Waits
        while no replica is available. `session`: the request's header `x-session-id`, or None. `avoid`: replicas that
        must not be chosen. `wait_s`: maximum waiting time in seconds.

        Raises:
            RequestError: status 503 if no replica becomes available within `wait_s`.
        """
        deadline = time.monotonic() + wait_s
        while not (candidates := [r for r in self.replicas if r.accepts_requests and r not in avoid]):
            await self._wait(deadline, f"no replica can take the request now: {self._states()}")
        least_busy = min(candidates, key=lambda replica: (replica.in_flight, replica.last_request))
        if session is None:
            return self._record_choice(least_busy)
        chosen = self._sessions.get(session)
        if (
            chosen is None
            or chosen not in candidates
            or chosen.in_flight > least_busy.in_flight + self._max_extra_requests
        ):
            chosen = least_busy
        self._sessions[session] = chosen
        self._sessions.move_to_end(session)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return self._record_choice(chosen)

    def _record_choice(self, replica: Replica) -> Replica:
        self._requests += 1
        replica.last_request = self._requests
        return replica

    def _states(self) -> str:
        return ", ".join(f"{replica.name} is {replica.state}" for replica in self.replicas)

    # --- weights ---

    async def serve(self, source: Source) -> ServedVersion:
        """Make a version the target (the version that all replicas must serve), and wait until every reachable replica
        serves the version. A replica that is down gets the version later, before its next request. If a replica refuses
        the version, the previous version becomes the target again. (`_roll_back` explains the case without a previous
        version.) Returns the label of the version and the largest result of a probe.

        Raises:
            ProbeError: the log-probs of a replica differ too much from the trainer's log-probs.
            VersionError: the version is damaged or cannot be loaded.
            RequestError: status 503 if the time limit of the push expires while all replicas are down or a replica is
                still updating.
        """
        if isinstance(source, Path):
            manifest = await asyncio.to_thread(verify, source)  # if this fails, the old version stays the target
        else:
            manifest = source.manifest
        target, before = Target(manifest.label, source), self.target
        if before is not None and before.label == target.label:
            before = None  # there is no other version to return to
        self._set_target(target)
        deadline = time.monotonic() + push_limit_s(manifest.bytes)
        while not self._reached(target):
            await self._wait(deadline, f"the replicas do not serve {target.label} yet: {self._states()}")
        for replica in self.replicas:
            if why := replica.failure_reason(target):
                error = (ProbeError if replica.state == "refused" else VersionError)(f"{replica.name}: {why}")
                self._roll_back(target, before)
                raise error
        differences = [replica.difference for replica in self.replicas if replica.difference is not None]
        return ServedVersion(target.label, max(differences, default=None))

    async def restore(self, versions: Iterator[Path]) -> None:
        """Call `serve` for one version after another until a version is in service. Stops if the trainer pushes another
        version. `versions`: the directories of the versions, newest first.
        """
        while (directory := await asyncio.to_thread(next, versions, None)) is not None:
            while True:
                try:
                    await self.serve(directory)
                    return
                except VersionError as error:
                    self._log.warning("version_skipped", directory=str(directory), reason=str(error))
                    break
                except RequestError:  # the replicas are still starting: try again unless another version was pushed
                    if self.target is None or self.target.source != directory:
                        return

    def _set_target(self, target: Target | None) -> None:
        self.target = target
        for replica in self.replicas:
            replica.wake()

    def _roll_back(self, target: Target, before: Target | None) -> None:
        """Replace the refused version `target` by the previous version `before`. If there is no previous version, there
        are two cases. If all replicas probe weights before they serve them, no replica uses the refused weights, and
        the target becomes None. Otherwise the target does not change, and replicas that have refused the weights stay
        in the state `refused`. Does nothing if another version has become the target meanwhile.
        """
        if self.target is target and (before or all(replica.driver.probes_before_serving for replica in self.replicas)):
            self._set_target(before)

    def _reached(self, target: Target) -> bool:
        """True if every replica is done or down, and at least one replica is done. A replica is done if it serves the
        version `target` or has refused it.
        """
        done = [
            bool(replica.failure_reason(target)) or (replica.state == "ready" and replica.version == target.label)
            for replica in self.replicas
        ]
        return any(done) and all(
            is_done or replica.state == "down" for is_done, replica in zip(done, self.replicas, strict=True)
        )

    # --- changes ---

    def _notify(self) -> None:
        """Wake all callers of `_wait`."""
        change, self._change = self._change, asyncio.Event()
        change.set()

    async def _wait(self, deadline: float, why: str) -> None:
        """Wait until the state of any replica changes. `why`: the message of the error.

        Raises:
            RequestError: status 503 if no state changes before `deadline` (in seconds of `time.monotonic`).
        """
        try:
            await asyncio.wait_for(self._change.wait(), deadline - time.monotonic())
        except TimeoutError:
            raise RequestError(why, status=503) from None
