"""One replica of a gateway: its state, its version of the weights, and its update to the target (the version that every
replica must serve). A probe compares the replica's log-probs with the trainer's log-probs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import aiohttp

from arlarena.inference.gateway.weight_drivers import TRANSIENT, Driver, RestartNeeded
from arlarena.inference.weights.versions import ProbeError, Source, VersionError
from arlarena.proto.telemetry import Logger

# The target is the version that every replica must serve.
# down: the replica does not answer. behind: the replica answers but does not serve the target. pushing: the replica
# receives the target and gets requests meanwhile. ready: the replica serves the target. refused: the target has failed
# the probe on this replica. A replica gets requests only in the states `ready` and `pushing`.
State = Literal["down", "behind", "pushing", "ready", "refused"]

# After n failed checks in a row, the pause before the next check is FIRST_PAUSE_DOWN_S * 2**n seconds, but at most
# `interval_s` seconds. _MAX_DOUBLINGS limits n.
FIRST_PAUSE_DOWN_S = 0.1
_MAX_DOUBLINGS = 10


@dataclass(frozen=True, slots=True)
class Target:
    """The version of the weights that every replica must serve. `label`: the version's name. `source`: the directory or
    the sender of the weights.
    """

    label: str
    source: Source


class Replica:
    """A policy server behind the gateway. `history`: the labels of all versions that the replica has used or may have
    used, oldest first.
    """

    def __init__(
        self,
        name: str,
        url: str,
        session: aiohttp.ClientSession,
        driver: Driver,
        interval_s: float,
        log: Logger,
        max_requests: int | None = None,
    ) -> None:
        """`interval_s`: seconds between two checks of a replica that answers. `max_requests`: maximum number of
        sampling requests that the replica gets at the same time; further sampling requests wait in the gateway; None:
        no limit.
        """
        self.name, self.url, self.session, self.driver = name, url, session, driver
        self.state: State = "down"
        self.history: list[str] = []
        self.difference: float | None = None  # result of the last push: see `Driver.push`
        self.probed: str | None = None  # the version that was pushed and probed last; None after a failure
        self.failure: tuple[Target, str] | None = None  # the target that the replica has refused, and the reason
        self.in_flight = self.asked = 0  # number of unfinished requests, number of all requests
        self.last_request = 0  # the fleet's number of requests when this replica got its newest request
        self.on_change: Callable[[], None] = lambda: None  # called after each change of the state
        # called after a start or a failure of the replica, before the replica gets requests
        self.prepare: Callable[[Replica], Awaitable[None]] | None = None
        self.restart: Callable[[], None] | None = None  # restarts the engine; None for a remote replica
        self._capacity = asyncio.Semaphore(max_requests) if max_requests else None
        self._failures = 0
        self._interval_s, self._log = interval_s, log
        self._wake = asyncio.Event()
        self._no_push = asyncio.Event()  # set while no push runs
        self._no_push.set()

    @property
    def version(self) -> str | None:
        """The label of the version in service. During a push: the label of the new version."""
        return self.history[-1] if self.history else None

    @property
    def first_expected(self) -> int:
        """The index in `history` of the oldest version that may sample a request that begins now. During a push, this
        is the version before the pushed version, because the replica samples with it until it has the new weights.
        """
        return max(0, len(self.history) - (2 if self.state == "pushing" else 1))

    @property
    def accepts_requests(self) -> bool:
        """True if the replica may get requests."""
        return self.state in ("ready", "pushing")

    def report(self) -> dict[str, object]:
        """Returns the replica's entry in `/health`."""
        report = {"name": self.name, "state": self.state, "weight_version": self.version}
        return report | {"in_flight": self.in_flight, "asked": self.asked}

    async def begin_request(self, sampling: bool) -> None:
        """Count a new request. `sampling`: whether the request samples tokens. A sampling request waits here until the
        replica has fewer than `max_requests` unfinished sampling requests. The caller must call `end_request` after the
        request.
        """
        self.in_flight += 1
        self.asked += 1
        if sampling and self._capacity is not None:
            try:
                await self._capacity.acquire()
            except BaseException:
                self.in_flight -= 1
                raise

    def end_request(self, sampling: bool) -> None:
        """Count the end of a request. `sampling`: whether the request samples tokens."""
        self.in_flight -= 1
        if sampling and self._capacity is not None:
            self._capacity.release()

    async def wait_for_push(self) -> bool:
        """Wait for the end of a running push. Returns True if the replica accepts requests afterwards. Returns False if
        the push or its probe has failed: responses that were sampled during the push must then be dropped.
        """
        await self._no_push.wait()
        return self.accepts_requests

    def mark_down(self) -> None:
        """Set the state `down`, and start a check of the replica at once. Called if the replica did not answer or its
        process has ended. The replica must pass the probe again before it gets requests. If the replica has refused the
        target (the version that it must serve), its state does not change.
        """
        self.probed = None
        if self.failure is None:
            self._set_state("down", "it did not answer")
        self._wake.set()

    def wake(self) -> None:
        """Start a check of the replica at once. Called when the replica must serve another version of the weights."""
        self._wake.set()

    def failure_reason(self, target: Target) -> str | None:
        """Returns the reason why the replica has refused `target`. Returns None if it has not refused `target`."""
        return self.failure[1] if self.failure is not None and self.failure[0] is target else None

    async def maintain(self, target: Callable[[], Target | None]) -> None:
        """Check the replica at intervals, until cancelled. `target`: a function that returns the version that the
        replica must serve, or None.
        """
        while True:
            self._wake.clear()
            checked = target()
            await self._check(checked)
            changed = checked is not target()
            pause = 0.0 if changed else self._pause_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    @property
    def _pause_s(self) -> float:
        pause = FIRST_PAUSE_DOWN_S * 2 ** min(self._failures, _MAX_DOUBLINGS)
        return min(self._interval_s, pause) if self.state == "down" else self._interval_s

    async def _check(self, target: Target | None) -> None:
        """Check the replica once, and set its state. `target`: the version that the replica must serve; None if every
        version is accepted. If the replica does not serve `target`, or if `target` has not passed the probe on this
        replica, push `target` to the replica.
        """
        if target is not None and self.failure_reason(target):
            return  # the replica has refused this target
        self.failure = None
        try:
            version = await self.driver.version()
            if self.prepare is not None and not self.accepts_requests:
                await self.prepare(self)
            if target is not None and not version == target.label == self.probed:
                await self._push(target)
            else:
                self._record(version)
                self._set_state("ready")
            self._failures = 0
        except ProbeError as error:
            assert target is not None
            self._fail(target, "refused", str(error))
        except VersionError as error:
            assert target is not None
            self._fail(target, "behind", str(error))
        except Exception as error:  # `maintain` must continue after any error
            self._failures += 1
            if not isinstance(error, TRANSIENT):
                self._log.error("replica_check_failed", replica=self.name, error=repr(error))
            self._set_state("down", str(error) or type(error).__name__)
            if isinstance(error, RestartNeeded) and self.restart is not None:
                self.restart()
        finally:
            self._no_push.set()

    async def _push(self, target: Target) -> None:
        """Push the version `target` to the replica. If the replica was ready, it gets requests during the push."""
        self._set_state("pushing" if self.accepts_requests else "behind")
        self._no_push.clear()
        self._record(target.label)
        self.probed = None
        self.difference = await self.driver.push(target.source)
        self.probed = target.label
        self._set_state("ready")

    def _fail(self, target: Target, state: State, reason: str) -> None:
        self._log.error("replica_refused", replica=self.name, version=target.label, reason=reason)
        self.failure = (target, reason)
        self._set_state(state)
        self.on_change()  # `Fleet.serve` waits for the failure, even if the state has not changed

    def _record(self, version: str) -> None:
        if self.version != version:
            self.history.append(version)

    def _set_state(self, state: State, why: str = "") -> None:
        if self.state != state:
            self.state = state
            self._log.info("replica_state", replica=self.name, state=state, version=self.version, why=why)
            self.on_change()
