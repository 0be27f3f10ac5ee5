"""The session store on a clock of its own, and the service's rules with real episodes."""

import asyncio
import threading

import pytest

from arlarena.env_server.api import batches
from arlarena.env_server.errors import ApiError
from arlarena.env_server.sessions.service import EnvironmentService
from arlarena.env_server.sessions.store import SessionStore, StoreSettings
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.environment.registry import load
from arlarena.proto.env_api import Action, BatchItem, BatchRequest, CreateSessions, ResetSpec
from arlarena.proto.telemetry import get_logger


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def expired():
    """The sessions that the store said were idle for too long."""
    return []


@pytest.fixture
def store(clock, expired):
    settings = StoreSettings(3, default_ttl_s=10, max_ttl_s=100, retry_after_s=2)
    return SessionStore(settings, clock, wall_clock=lambda: 5e9, on_expired=expired.extend)


@pytest.fixture
def service(clock):
    settings = EnvironmentSettings(capacity=4, session_ttl_s=10, max_batch=8, max_action_chars=200)
    made = EnvironmentService(load("test", "sokoban", {"min_moves": 3}), settings, get_logger("test"), clock)
    yield made
    made.close()


def test_all_or_nothing(store):
    store.open(2)
    with pytest.raises(ApiError, match="2 sessions requested, 1 of 3 free") as caught:
        store.open(2)
    assert (caught.value.status, caught.value.retry_after_s, caught.value.blame) == (503, 2, "infra")
    assert caught.value.retryable
    assert len(store) == 2
    store.open(1)
    assert len(store) == 3


def test_who_is_idle_for_too_long_gives_up_the_place_at_once(store, clock, expired):
    old = store.open(3, ttl_s=5)
    clock.now += 5
    new = store.open(2)
    assert expired == old
    assert list(store) == new
    with pytest.raises(ApiError, match="2 sessions requested, 1 of 3 free"):
        store.open(2)


def test_idle_sessions_end_and_used_ones_live(store, clock, expired):
    idle, used = store.open(2)
    clock.now += 6
    store.get(used.id)
    clock.now += 6
    store.reap()
    assert expired == [idle]
    with pytest.raises(ApiError, match="idle for longer") as caught:
        store.get(idle.id)
    assert (caught.value.status, caught.value.code) == (404, "unknown_session")
    assert store.get(used.id) is used


def test_an_expired_session_is_gone_before_the_reaper_comes(store, clock):
    (session,) = store.open(1, ttl_s=1)
    clock.now += 1
    with pytest.raises(ApiError, match="no session"):
        store.get(session.id)


async def test_an_operation_under_way_is_no_idleness(store, clock, expired):
    (session,) = store.open(1)
    async with session.lock:
        clock.now += 1e6
        store.reap()
        assert expired == []
        assert store.get(session.id) is session
    clock.now += 1e6
    store.reap()
    assert expired == [session]


def test_leases_are_told_in_unix_time(store, clock):
    (session,) = store.open(1, ttl_s=50)
    clock.now += 20
    assert store.lease_expires_at(session) == pytest.approx(5e9 + 30)


def test_a_lost_socket_shortens_the_lease_and_never_lengthens_it(store, clock):
    short, long = store.open(1, ttl_s=2) + store.open(1, ttl_s=50)
    for session in (short, long):
        store.shorten(session, 5)
    assert [session.expires_at - clock.now for session in (short, long)] == [2, 5]


def test_ttl_has_a_limit(store):
    with pytest.raises(ApiError, match="above this server's maximum of 100 s"):
        store.open(1, ttl_s=101)
    assert len(store) == 0


def test_a_draining_store_opens_nothing(store):
    store.draining = True
    with pytest.raises(ApiError, match="shutting down"):
        store.open(1)


def test_session_ids_name_their_shard():
    store = SessionStore(StoreSettings(1, 1, 1, 1, id_prefix="eu7"))
    assert store.open(1)[0].id.startswith("eu7-")


async def test_step_index_next_repeat_and_conflict(service):
    (session,) = service.store.open(1)
    await service.reset(session, ResetSpec(index=1))
    first = await service.step(session, "still", 0)
    assert await service.step(session, "still", 0) is first
    assert session.steps == 1
    for index, text in ((0, "up"), (2, "still"), (7, "still")):
        with pytest.raises(ApiError, match="is not the next step") as caught:
            await service.step(session, text, index)
        assert (caught.value.status, caught.value.code) == (409, "step_index_conflict")
    second = await service.step(session, "still", 1)
    assert (second.observation.step, session.steps) == (2, 2)
    with pytest.raises(ApiError, match="is not the next step"):
        await service.step(session, "still", 0)


async def test_the_last_step_of_an_episode_can_be_repeated(service):
    (session,) = service.store.open(1)
    await service.reset(session, ResetSpec(index=1))
    for index in range(15):
        last = await service.step(session, "still", index)
    assert (last.done, last.observation.truncated, last.observation.remaining_steps) == (True, True, 0)
    assert await service.step(session, "still", 14) is last
    for index in (None, 15):
        with pytest.raises(ApiError, match="ended after 15 steps") as caught:
            await service.step(session, "still", index)
        assert caught.value.status == 409


async def test_a_reset_forgets_the_last_reply(service):
    (session,) = service.store.open(1)
    await service.reset(session, ResetSpec(index=1))
    await service.step(session, "still", 0)
    await service.reset(session, ResetSpec(index=2))
    assert session.steps == 0
    assert (await service.step(session, "still", 0)).metadata.task_id == "sokoban/train/2"


async def test_a_failed_reset_keeps_the_old_episode(service):
    (session,) = service.store.open(1)
    await service.reset(session, ResetSpec(index=1))
    with pytest.raises(ApiError, match="unknown split"):
        await service.reset(session, ResetSpec(split="nope"))
    assert service.state(session).task_id == "sokoban/train/1"


async def test_nothing_stays_open_when_a_reset_fails(service):
    wish = CreateSessions(2, [ResetSpec(index=1), ResetSpec(split="nope")])
    with pytest.raises(ApiError, match="unknown split"):
        await service.open(wish)
    assert len(service.store) == 0


async def test_one_reset_serves_a_whole_group(service):
    opened = await service.open(CreateSessions(3, [ResetSpec(index=5)], group_id="g"))
    keys = {one.result.metadata.state_key for one in opened}
    assert len(keys) == 1
    assert [one.group_id for one in opened] == ["g"] * 3
    with pytest.raises(ApiError, match="2 entries for 1 sessions"):
        await service.open(CreateSessions(1, [ResetSpec(), ResetSpec()]))
    with pytest.raises(ApiError, match="more than this server's capacity of"):
        await service.open(CreateSessions(10**15, [ResetSpec()]))


async def test_steps_of_one_session_do_not_interleave(service):
    (session,) = service.store.open(1)
    await service.reset(session, ResetSpec(index=1))
    results = await asyncio.gather(*(service.step(session, "still") for _ in range(10)))
    assert [result.observation.step for result in results] == list(range(1, 11))


async def test_batch_errors_are_per_item_and_order_is_kept(service):
    first, second = service.store.open(2)
    await service.reset(first, ResetSpec(index=1))
    items = [
        BatchItem(session_id=first.id, op="step", action=Action("still"), step_index=0, request_id="a"),
        BatchItem(session_id="gone", op="state", request_id="b"),
        BatchItem(session_id=second.id, op="step", action=Action("up")),
        BatchItem(session_id=first.id, op="step", action=Action("x" * 201)),
        BatchItem(session_id=first.id, op="step"),
        BatchItem(session_id=second.id, op="reset", split="test", index=3, episode_id="e"),
        BatchItem(session_id=second.id, op="state"),
        BatchItem(session_id=second.id, op="close"),
    ]
    results = await batches.run_batch(service, BatchRequest(items))
    assert [result.session_id for result in results] == [item.session_id for item in items]
    assert [result.error.code if result.error else None for result in results] == [
        None, "unknown_session", "not_reset", "invalid_request", "invalid_request", None, None, None,
    ]  # fmt: skip
    assert [result.request_id for result in results[:2]] == ["a", "b"]
    assert (results[6].state.task_id, results[6].state.episode_id) == ("sokoban/test/3", "e")
    assert (results[5].reward, results[0].reward) == (None, pytest.approx(-0.1))
    assert len(service.store) == 1


async def test_too_many_items_are_refused_at_once(service):
    with pytest.raises(ApiError, match="9 items are more than this server's max_batch of 8"):
        await batches.run_batch(service, BatchRequest([BatchItem(session_id="x", op="state")] * 9))


async def test_large_batches_run_in_turn_and_a_small_one_runs_between_their_items(service, monkeypatch):
    monkeypatch.setattr(batches, "YIELD_EVERY", 2)
    first, second, third = (session.id for session in service.store.open(3))
    order, state = [], service.state
    monkeypatch.setattr(service, "state", lambda session: order.append(session.id) or state(session))
    requests = [(first, 6), (second, 6), (third, 1)]
    await asyncio.gather(
        *(
            batches.run_batch(service, BatchRequest([BatchItem(session_id=name, op="state")] * count))
            for name, count in requests
        )
    )
    assert [name for name in order if name != third] == [first] * 6 + [second] * 6
    assert order.index(third) < 6


class StuckFactory:
    """Sokoban whose episodes begin only when the test allows it."""

    def __init__(self):
        self._inner = load("test", "sokoban", {})
        self.info, self.blocking = self._inner.info, False
        self.allowed = threading.Event()

    def task(self, spec):
        return self._inner.task(spec)

    def start(self, task):
        assert self.allowed.wait(30)
        return self._inner.start(task)


async def test_a_reset_that_takes_too_long_is_given_up_and_harms_nothing():
    factory = StuckFactory()
    service = EnvironmentService(factory, EnvironmentSettings(reset_timeout_s=0.05), get_logger("test"))
    (session,) = service.store.open(1)
    with pytest.raises(ApiError, match=r"reset of sokoban/train/1 took longer than 0\.05 s") as caught:
        await service.reset(session, ResetSpec(index=1))
    assert (caught.value.status, caught.value.blame, caught.value.retryable) == (504, "infra", True)
    items = [BatchItem(session_id=session.id, op="reset"), BatchItem(session_id=session.id, op="state")]
    results = await batches.run_batch(service, BatchRequest(items, 0.04))
    assert [result.error.code for result in results] == ["deadline", "deadline"]
    factory.allowed.set()
    assert service.state(session).task_id is None
    result = await service.reset(session, ResetSpec(index=2))
    assert result.metadata.task_id == "sokoban/train/2"
    service.close()


async def test_the_expert_is_silent_on_evaluation_splits(service):
    (session,) = service.store.open(1)
    with pytest.raises(ApiError, match="no episode yet"):
        await service.expert(session)
    await service.reset(session, ResetSpec(split="test", index=0))
    with pytest.raises(ApiError, match="in the evaluation split") as caught:
        await service.expert(session)
    assert caught.value.status == 403
    await service.reset(session, ResetSpec(index=0))
    reply = await service.expert(session)
    assert reply.text == reply.plan[0]
    for text in reply.plan:
        result = await service.step(session, text)
    assert result.metadata.success
    with pytest.raises(ApiError, match="ended"):
        await service.expert(session)


async def test_a_star_allows_the_expert_on_every_split():
    settings = EnvironmentSettings(expert_splits=("*",))
    service = EnvironmentService(load("test", "sokoban", {}), settings, get_logger("test"))
    (session,) = service.store.open(1)
    for split in service.info.splits:
        await service.reset(session, ResetSpec(split=split.name))
        assert (await service.expert(session)).plan
    service.close()


async def test_the_expert_speaks_on_evaluation_splits_when_allowed():
    settings = EnvironmentSettings(expert_splits=("validation",))
    service = EnvironmentService(load("test", "sokoban", {}), settings, get_logger("test"))
    (session,) = service.store.open(1)
    await service.reset(session, ResetSpec(split="validation"))
    assert (await service.expert(session)).plan
    await service.reset(session, ResetSpec(split="test"))
    with pytest.raises(ApiError, match="expert_splits does not name"):
        await service.expert(session)
    service.close()
