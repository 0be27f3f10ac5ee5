"""Snapshots: states of sessions, kept so that play can go on from there any number of times."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from arlarena.env_server.errors import snapshots_full, unknown_snapshot
from arlarena.env_server.sessions.store import Clock, LastStep, ServerSession
from arlarena.environment.protocols import Episode


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A saved state. `episode`: a copy that is never stepped. `expires_at`: on the store's clock."""

    id: str
    episode: Episode
    episode_id: str | None
    last: LastStep | None
    expires_at: float
    tenant: str | None = None  # of the session that it was made of

    def put_into(self, session: ServerSession) -> None:
        """Let the session go on from here."""
        session.episode, session.episode_id, session.last = self.episode.fork(), self.episode_id, self.last
        session.failure = None


class SnapshotStore:
    """All snapshots of one server, in memory, at most `capacity`, each for `ttl_s` seconds after its last use."""

    def __init__(self, capacity: int, ttl_s: float, shard: str, clock: Clock) -> None:
        self.capacity, self.ttl_s = capacity, ttl_s
        self._shard, self._clock = shard, clock
        self._snapshots: dict[str, StoredSnapshot] = {}

    def __len__(self) -> int:
        return len(self._snapshots)

    def save(self, session: ServerSession, episode: Episode) -> StoredSnapshot:
        """Keep the state of a session; `episode` is its own.

        Raises:
            ApiError: 503 while there is no room.
        """
        if len(self) >= self.capacity:
            self.reap()
        if len(self) >= self.capacity:
            raise snapshots_full(self.capacity)
        name = f"{self._shard}-{uuid.uuid4().hex}"
        return self._keep(StoredSnapshot(name, episode.fork(), session.episode_id, session.last, 0.0, session.tenant))

    def get(self, snapshot_id: str, tenant: str | None = None) -> StoredSnapshot:
        """A tenant's snapshot; its expiry time is reset.

        Raises:
            ApiError: 404, also for a snapshot of another tenant.
        """
        found = self._snapshots.get(snapshot_id)
        if found is None or found.tenant != tenant or found.expires_at <= self._clock():
            raise unknown_snapshot(snapshot_id)
        return self._keep(found)

    def forget(self, snapshot_id: str, tenant: str | None = None) -> None:
        """Give up a tenant's snapshot.

        Raises:
            ApiError: 404, also for a snapshot of another tenant.
        """
        found = self._snapshots.get(snapshot_id)
        if found is None or found.tenant != tenant:
            raise unknown_snapshot(snapshot_id)
        del self._snapshots[snapshot_id]

    def reap(self) -> None:
        """Give up those whose time is over."""
        now = self._clock()
        for name in [name for name, one in self._snapshots.items() if one.expires_at <= now]:
            del self._snapshots[name]

    def remaining_s(self, snapshot: StoredSnapshot) -> float:
        """Seconds without use until it expires."""
        return snapshot.expires_at - self._clock()

    def _keep(self, one: StoredSnapshot) -> StoredSnapshot:
        kept = StoredSnapshot(one.id, one.episode, one.episode_id, one.last, self._clock() + self.ttl_s, one.tenant)
        self._snapshots[one.id] = kept
        return kept
