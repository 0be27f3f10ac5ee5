"""Snapshots: stored states of sessions. A session can be restored from a snapshot any number of times."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from arlarena.env_server.errors import snapshots_full, unknown_snapshot
from arlarena.env_server.sessions.store import Clock, LastStep, ServerSession
from arlarena.environment.protocols import Episode


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A stored state. `episode`: a copy that never takes a step. `expires_at`: seconds on the store's clock."""

    id: str
    episode: Episode
    episode_id: str | None
    last: LastStep | None
    expires_at: float
    tenant: str | None = None  # the tenant of the original session

    def put_into(self, session: ServerSession) -> None:
        """Replace the state of `session` with a copy of the stored state."""
        session.episode, session.episode_id, session.last = self.episode.fork(), self.episode_id, self.last
        session.failure = None


class SnapshotStore:
    """The snapshots of one server, in memory. At most `capacity` snapshots are stored. A snapshot is dropped `ttl_s`
    seconds after its last use.
    """

    def __init__(self, capacity: int, ttl_s: float, shard: str, clock: Clock) -> None:
        self.capacity, self.ttl_s = capacity, ttl_s
        self._shard, self._clock = shard, clock
        self._snapshots: dict[str, StoredSnapshot] = {}

    def __len__(self) -> int:
        return len(self._snapshots)

    def save(self, session: ServerSession, episode: Episode) -> StoredSnapshot:
        """Store the state of a session and return the snapshot. `episode`: the episode of the session.

        Raises:
            ApiError: 503 while the store is full.
        """
        if len(self) >= self.capacity:
            self.reap()
        if len(self) >= self.capacity:
            raise snapshots_full(self.capacity)
        name = f"{self._shard}-{uuid.uuid4().hex}"
        return self._keep(StoredSnapshot(name, episode.fork(), session.episode_id, session.last, 0.0, session.tenant))

    def get(self, snapshot_id: str, tenant: str | None = None) -> StoredSnapshot:
        """Returns a snapshot of the tenant and restarts the time until the snapshot expires.

        Raises:
            ApiError: 404, also for a snapshot of another tenant.
        """
        found = self._snapshots.get(snapshot_id)
        if found is None or found.tenant != tenant or found.expires_at <= self._clock():
            raise unknown_snapshot(snapshot_id)
        return self._keep(found)

    def forget(self, snapshot_id: str, tenant: str | None = None) -> None:
        """Delete a snapshot of the tenant.

        Raises:
            ApiError: 404, also for a snapshot of another tenant.
        """
        found = self._snapshots.get(snapshot_id)
        if found is None or found.tenant != tenant:
            raise unknown_snapshot(snapshot_id)
        del self._snapshots[snapshot_id]

    def reap(self) -> None:
        """Delete all expired snapshots."""
        now = self._clock()
        for name in [name for name, one in self._snapshots.items() if one.expires_at <= now]:
            del self._snapshots[name]

    def remaining_s(self, snapshot: StoredSnapshot) -> float:
        """Returns the seconds until the snapshot expires, if nobody uses it."""
        return snapshot.expires_at - self._clock()

    def _keep(self, one: StoredSnapshot) -> StoredSnapshot:
        kept = StoredSnapshot(one.id, one.episode, one.episode_id, one.last, self._clock() + self.ttl_s, one.tenant)
        self._snapshots[one.id] = kept
        return kept
