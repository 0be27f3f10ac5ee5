"""Snapshots: stored states of sessions. A snapshot can be restored any number of times."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace

from arlarena.env_server.errors import snapshots_full, unknown_snapshot
from arlarena.env_server.sessions.store import Clock, LastStep, ServerSession
from arlarena.environment.protocols import Episode


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """The stored state of a session. `episode`: a copy that never takes a step. `expires_at`: seconds on the clock of
    `SnapshotStore`.
    """

    id: str
    episode: Episode
    episode_id: str | None
    last: LastStep | None
    expires_at: float
    tenant: str | None = None  # the tenant of the session from which the snapshot was made

    def copy_into(self, session: ServerSession) -> None:
        """Replace the state of `session` with a copy of this state."""
        session.episode, session.episode_id, session.last = self.episode.fork(), self.episode_id, self.last
        session.failure = None


class SnapshotStore:
    """The snapshots of one server, in memory. `capacity`: the maximum number of snapshots. `ttl_s`: the time in seconds
    after which an unused snapshot expires. `id_prefix`: the beginning of all snapshot ids.
    """

    def __init__(self, capacity: int, ttl_s: float, id_prefix: str, clock: Clock) -> None:
        self.capacity, self.ttl_s = capacity, ttl_s
        self._id_prefix, self._clock = id_prefix, clock
        self._snapshots: dict[str, StoredSnapshot] = {}

    def __len__(self) -> int:
        return len(self._snapshots)

    def save(self, session: ServerSession, episode: Episode) -> StoredSnapshot:
        """Store the state of a session and return the snapshot. `episode`: the episode of the session.

        Raises:
            ApiError: 503 if the store is full.
        """
        if len(self) >= self.capacity:
            self.reap()
        if len(self) >= self.capacity:
            raise snapshots_full(self.capacity)
        snapshot_id = f"{self._id_prefix}-{uuid.uuid4().hex}"
        return self._store(
            StoredSnapshot(snapshot_id, episode.fork(), session.episode_id, session.last, 0.0, session.tenant)
        )

    def get(self, snapshot_id: str, tenant: str | None = None) -> StoredSnapshot:
        """Returns a snapshot of the tenant. The snapshot then expires `ttl_s` seconds from now.

        Raises:
            ApiError: 404 if the tenant has no such snapshot.
        """
        found = self._snapshots.get(snapshot_id)
        if found is None or found.tenant != tenant or found.expires_at <= self._clock():
            raise unknown_snapshot(snapshot_id)
        return self._store(found)

    def forget(self, snapshot_id: str, tenant: str | None = None) -> None:
        """Delete a snapshot of the tenant.

        Raises:
            ApiError: 404 if the tenant has no such snapshot.
        """
        found = self._snapshots.get(snapshot_id)
        if found is None or found.tenant != tenant:
            raise unknown_snapshot(snapshot_id)
        del self._snapshots[snapshot_id]

    def reap(self) -> None:
        """Delete all expired snapshots."""
        now = self._clock()
        expired = [snapshot_id for snapshot_id, snapshot in self._snapshots.items() if snapshot.expires_at <= now]
        for snapshot_id in expired:
            del self._snapshots[snapshot_id]

    def remaining_s(self, snapshot: StoredSnapshot) -> float:
        """Returns the number of seconds until the snapshot expires if nobody uses it."""
        return snapshot.expires_at - self._clock()

    def _store(self, snapshot: StoredSnapshot) -> StoredSnapshot:
        """Store a snapshot under its id, with a new expiry time."""
        stored = replace(snapshot, expires_at=self._clock() + self.ttl_s)
        self._snapshots[stored.id] = stored
        return stored
