"""Sessions, their episodes and expiry times, independent of HTTP and of environments."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

import msgspec

from arlarena.env_server.errors import ApiError, at_capacity, client_at_limit, draining, invalid, unknown_session
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.environment.protocols import Episode
from arlarena.proto.env_api import OpenedSession, StepResult

Clock = Callable[[], float]


class LastStep(msgspec.Struct, frozen=True):
    """The last step and its reply, kept so that a repeated request moves nothing."""

    index: int
    text: str
    result: StepResult


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `tenant`: whose token the request brings; None where the server has no tokens. `authorization`: the
    header that brings it, for other pods.
    """

    address: str
    tenant: str | None = None
    authorization: str | None = field(default=None, repr=False)

    @property
    def owner(self) -> str:
        """Whose limit of sessions counts."""
        return self.address if self.tenant is None else f"token {self.tenant}"


UNKNOWN_CALLER = Caller("unknown")


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(slots=True, eq=False)
class ServerSession:
    """One player's place.

    `expires_at` is on the store's clock. `lock` is held while an operation is under way. `hang_up` tells the socket
    that holds the session why it is over, and closes it. `failure` is what broke the episode: it can only be reset.
    """

    id: str
    ttl_s: float
    expires_at: float
    group_id: str | None = None
    caller: Caller = UNKNOWN_CALLER  # that opened it
    tenant: str | None = None  # only this tenant can access the session
    episode: Episode | None = None
    episode_id: str | None = None
    last: LastStep | None = None
    failure: ApiError | None = None
    detached: asyncio.Event = field(default_factory=_set_event)
    hang_up: Callable[[str], Awaitable[None]] | None = None
    closing: bool = False  # ends as soon as its socket lets go of it
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def attached(self) -> bool:
        """Whether a socket holds the session."""
        return not self.detached.is_set()

    @property
    def steps(self) -> int:
        """Steps taken in the present episode."""
        return self.episode.steps if self.episode else 0


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Bounds of a store: sessions, of all and of one owner, seconds, and what a refused caller is told to wait."""

    capacity: int
    default_ttl_s: float
    max_ttl_s: float
    retry_after_s: float
    shard: str = "0"
    per_owner: int | None = None

    @classmethod
    def of(cls, settings: EnvironmentSettings) -> Self:
        """The limits of table [environment]."""
        s = settings
        return cls(
            s.capacity, s.session_ttl_s, s.max_session_ttl_s, s.retry_after_s, s.shard, s.max_sessions_per_client
        )


class SessionStore:
    """All sessions of one server, in memory.

    `clock` gives seconds that never run backwards; `wall` is Unix time; `on_expired` is told of sessions that ended
    for idleness.
    """

    def __init__(
        self,
        limits: StoreLimits,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
        on_expired: Callable[[list[ServerSession]], None] = lambda _: None,
    ) -> None:
        self.limits = limits
        self._clock = clock
        self._wall = wall
        self._on_expired = on_expired
        self._sessions: dict[str, ServerSession] = {}
        self.draining = False

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[ServerSession]:
        return iter(list(self._sessions.values()))

    def open(
        self,
        count: int,
        *,
        ttl_s: float | None = None,
        group_id: str | None = None,
        caller: Caller = UNKNOWN_CALLER,
    ) -> list[ServerSession]:
        """`count` new sessions, or none at all. Idle ones give up their place first.

        Raises:
            ApiError: 503 while full or shutting down, 429 for a client at its limit, 422 for a ttl_s beyond the limit.
        """
        if self.draining:
            raise draining()
        ttl = self.limits.default_ttl_s if ttl_s is None else ttl_s
        if ttl > self.limits.max_ttl_s:
            raise invalid(f"ttl_s = {ttl:g} is beyond this server's limit of {self.limits.max_ttl_s:g} s")
        if count > self.limits.capacity:
            raise invalid(f"{count} sessions are more than this server ever has ({self.limits.capacity})")
        if count > self.free():
            self.reap()
        if count > self.free():
            raise at_capacity(count, self.free(), self.limits.capacity, self.limits.retry_after_s)
        self._check_limit(caller.owner, count)
        opened = [self._new(ttl, group_id, caller) for _ in range(count)]
        self._sessions.update({session.id: session for session in opened})
        return opened

    def free(self) -> int:
        """How many sessions can be opened now."""
        return self.limits.capacity - len(self._sessions)

    def _check_limit(self, owner: str, count: int) -> None:
        limit = self.limits.per_owner
        if limit is None:
            return
        held = sum(session.caller.owner == owner for session in self._sessions.values())
        if held + count > limit:
            raise client_at_limit(owner, count, held, limit, self.limits.retry_after_s)

    def _new(self, ttl_s: float, group_id: str | None, caller: Caller) -> ServerSession:
        name = f"{self.limits.shard}-{uuid.uuid4().hex}"
        return ServerSession(name, ttl_s, self._clock() + ttl_s, group_id, caller, caller.tenant)

    def of(self, tenant: str | None) -> list[ServerSession]:
        """The sessions of a tenant."""
        return [session for session in self._sessions.values() if session.tenant == tenant]

    def get(self, session_id: str, tenant: str | None = None) -> ServerSession:
        """The tenant's session; its idle time is reset.

        Raises:
            ApiError: 404, also for a session of another tenant.
        """
        session = self._sessions.get(session_id)
        if session is None or session.tenant != tenant or self._expired(session):
            raise unknown_session(session_id)
        self.touch(session)
        return session

    def touch(self, session: ServerSession) -> None:
        """Reset the idle time."""
        session.expires_at = self._clock() + session.ttl_s

    def shorten(self, session: ServerSession, seconds: float) -> None:
        """Reduce the session's remaining time to at most `seconds`; the next use resets it."""
        session.expires_at = min(session.expires_at, self._clock() + seconds)

    def close(self, session_id: str, tenant: str | None = None) -> None:
        """End a tenant's session.

        Raises:
            ApiError: 404, also for a session of another tenant.
        """
        session = self._sessions.get(session_id)
        if session is None or session.tenant != tenant:
            raise unknown_session(session_id)
        del self._sessions[session_id]

    def discard(self, sessions: list[ServerSession]) -> None:
        """End sessions that may already be gone."""
        for session in sessions:
            self._sessions.pop(session.id, None)

    def _expired(self, session: ServerSession) -> bool:
        # An operation under way is no idleness, however long it takes.
        return session.expires_at <= self._clock() and not session.lock.locked()

    def reap(self) -> None:
        """End the sessions whose idle time is over."""
        idle = [session for session in self._sessions.values() if self._expired(session)]
        if idle:
            self.discard(idle)
            self._on_expired(idle)

    def lease_expires_at(self, session: ServerSession) -> float:
        """Unix time (seconds) at which the session ends without use."""
        return self._wall() + session.expires_at - self._clock()

    def describe(self, session: ServerSession, result: StepResult | None = None) -> OpenedSession:
        """The session as the API shows it."""
        return OpenedSession(
            session_id=session.id,
            lease_expires_at=self.lease_expires_at(session),
            group_id=session.group_id,
            task_id=session.episode.task.id if session.episode else None,
            step_count=session.steps,
            result=result,
        )
