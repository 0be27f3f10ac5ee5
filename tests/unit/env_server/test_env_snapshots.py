"""The store of snapshots on a clock of its own."""

import pytest

from arlarena.env_server.errors import ApiError
from arlarena.env_server.sessions.snapshots import SnapshotStore
from arlarena.env_server.sessions.store import SessionStore, StoreSettings
from arlarena.environment.registry import load
from arlarena.proto.env_api import ResetSpec


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def session(clock):
    store = SessionStore(StoreSettings(3, default_ttl_s=10, max_ttl_s=100, retry_after_s=2), clock)
    (session,) = store.open(1)
    factory = load("test", "sokoban", {})
    session.episode = factory.start(factory.task(ResetSpec(index=3)))
    return session


def test_unused_snapshots_are_given_up_and_used_ones_live(clock, session):
    store = SnapshotStore(2, 10.0, "0", clock)
    idle, used = store.save(session, session.episode), store.save(session, session.episode)
    with pytest.raises(ApiError, match="all 2 snapshots are in use") as caught:
        store.save(session, session.episode)
    assert (caught.value.status, caught.value.retryable) == (503, True)
    clock.now += 6
    store.get(used.id)
    clock.now += 6
    with pytest.raises(ApiError, match="unused for too long"):
        store.get(idle.id)
    store.save(session, session.episode)  # takes the idle one's place
    assert len(store) == 2
    assert store.remaining_s(store.get(used.id)) == 10
    clock.now += 10
    store.reap()
    assert len(store) == 0


def test_a_snapshot_is_untouched_by_what_is_played_from_it(clock, session):
    store = SnapshotStore(2, 10.0, "0", clock)
    kept = store.save(session, session.episode)
    before = session.episode.observe()
    session.episode.step("up")
    kept.copy_into(session)
    session.episode.step("left")
    kept.copy_into(session)
    assert session.episode.observe() == before
