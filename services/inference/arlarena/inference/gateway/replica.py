"""One replica: what it serves, whether it may be asked, and how it is brought to the version that is wanted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import aiohttp

from arlarena.inference.gateway.weight_drivers import PASSING, Broken, Driver
from arlarena.inference.weights.versions import ProbeError, Source, VersionError
from arlarena.proto.telemetry import Logger

# down: does not answer. behind: answers, and has to be brought to the wanted version first. pushing: takes a new
# version while it serves. ready: serves the wanted version. refused: failed its probe, and is not asked any more.
State = Literal["down", "behind", "pushing", "ready", "refused"]

SOON_S = 0.1  # between the first two looks at a replica that is down; doubles with each
_MOST_DOUBLINGS = 10


@dataclass(frozen=True, slots=True)
class Target:
    """The version that every replica has to serve."""

    label: str
    source: Source


class Replica:
    """A policy server behind the gateway. `history`: the versions that it may have sampled with, oldest first."""

    def __init__(
        self,
        name: str,
        url: str,
        session: aiohttp.ClientSession,
        driver: Driver,
        interval_s: float,
        log: Logger,
        room: int | None = None,
    ) -> None:
        """`interval_s`: between two looks at it while all is well. `room`: how many requests it is given at once, the
        others wait here; None: all of them.
        """
        self.name, self.url, self.session, self.driver = name, url, session, driver
        self.state: State = "down"
        self.history: list[str] = []
        self.difference: float | None = None
        self.checked: str | None = None  # the version that passed its check here, since this replica was started
        self.failure: tuple[Target, str] | None = None  # what it did not take, and why
        self.in_flight = self.asked = 0  # requests: now, and ever
        self.asked_last = 0  # when, in requests of the whole fleet
        self.changed: Callable[[], None] = lambda: None
        self.prepare: Callable[[Replica], Awaitable[None]] | None = None  # before it is asked for the first time
        self.renew: Callable[[], None] | None = None  # starts it anew, where that can be done from here
        self._room = asyncio.Semaphore(room) if room else None
        self._failures = 0
        self._interval_s, self._log = interval_s, log
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()

    @property
    def version(self) -> str | None:
        """What it serves, or will once a push is over."""
        return self.history[-1] if self.history else None

    @property
    def open(self) -> bool:
        """Whether requests may be sent to it."""
        return self.state in ("ready", "pushing")

    def report(self) -> dict[str, object]:
        """What people see of it."""
        seen = {"name": self.name, "state": self.state, "weight_version": self.version}
        return seen | {"in_flight": self.in_flight, "asked": self.asked}

    async def enter(self, queued: bool) -> None:
        """Begin a request; one that is `queued` waits for room. Then `leave` has to be called."""
        self.in_flight += 1
        self.asked += 1
        if queued and self._room is not None:
            try:
                await self._room.acquire()
            except BaseException:
                self.in_flight -= 1
                raise

    def leave(self, queued: bool) -> None:
        """A request has ended."""
        self.in_flight -= 1
        if queued and self._room is not None:
            self._room.release()

    async def settled(self) -> bool:
        """Wait for the end of a push, if one goes on; whether what it sampled can be believed."""
        await self._settled.wait()
        return self.open

    def suspect(self) -> None:
        """It failed to answer, or has ended: nobody is sent there until it has been looked at, and nothing that was
        known of it counts.
        """
        self.checked = None
        if self.failure is None:
            self._become("down", "it did not answer")
        self._wake.set()

    def look_again(self) -> None:
        """What is wanted has changed."""
        self._wake.set()

    def failed(self, target: Target) -> str | None:
        """Why it did not take this target, if it did not."""
        return self.failure[1] if self.failure is not None and self.failure[0] is target else None

    async def keep(self, target: Callable[[], Target | None]) -> None:
        """Look at it now and then, and bring it to the target; never returns."""
        while True:
            self._wake.clear()
            wanted = target()
            await self._look(wanted)
            behind = wanted is not target()
            pause = 0.0 if behind else self._pause_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    @property
    def _pause_s(self) -> float:
        soon = SOON_S * 2 ** min(self._failures, _MOST_DOUBLINGS)
        return min(self._interval_s, soon) if self.state == "down" else self._interval_s

    async def _look(self, target: Target | None) -> None:
        if target is not None and self.failed(target):
            return  # until somebody wants something else, or the same once more
        self.failure = None
        try:
            version = await self.driver.version()
            if self.prepare is not None and not self.open:
                await self.prepare(self)
            if target is not None and not version == target.label == self.checked:
                await self._bring(target)
            else:
                self._serves(version)
            self._failures = 0
        except ProbeError as error:
            assert target is not None
            self._fail(target, "refused", str(error))
        except VersionError as error:
            assert target is not None
            self._fail(target, "behind", str(error))
        except Exception as error:  # an answer of any kind must not end the one who looks after it
            self._failures += 1
            if not isinstance(error, PASSING):
                self._log.error("replica_odd", replica=self.name, error=repr(error))
            self._become("down", str(error) or type(error).__name__)
            if isinstance(error, Broken) and self.renew is not None:
                self.renew()
        finally:
            self._settled.set()

    async def _bring(self, target: Target) -> None:
        """Push; only a replica that has been serving what was wanted before goes on being asked meanwhile."""
        self._become("pushing" if self.open else "behind")
        self._settled.clear()
        self._note(target.label)
        self.checked = None
        self.difference = await self.driver.push(target.source)
        self.checked = target.label
        self._become("ready")

    def _serves(self, version: str) -> None:
        self._note(version)
        self._become("ready")

    def _fail(self, target: Target, state: State, reason: str) -> None:
        self._log.error("replica_refused", replica=self.name, version=target.label, reason=reason)
        self.failure = (target, reason)
        self._become(state)
        self.changed()  # also where it was in that state already: whoever waits has to learn of the failure

    def _note(self, version: str) -> None:
        if self.version != version:
            self.history.append(version)

    def _become(self, state: State, why: str = "") -> None:
        if self.state != state:
            self.state = state
            self._log.info("replica", replica=self.name, state=state, version=self.version, why=why)
            self.changed()
