"""The pool of threads: results, errors, what is given up; and starts that are kept by task."""

import asyncio
import threading

import pytest

from arlarena.env_server.sessions.reset_cache import ResetCache
from arlarena.env_server.sessions.service import EnvironmentService
from arlarena.env_server.sessions.thread_pool import WorkPool
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.environments.guess.environment import GuessEnvironment
from arlarena.proto.env_api import ResetSpec
from arlarena.proto.telemetry import get_logger
from arlarena.proto.trajectory import Task


@pytest.fixture
def pool():
    made = WorkPool(2, "test")
    yield made
    made.close()


async def test_every_work_gets_its_own_result(pool):
    futures = [pool.submit(lambda number=number: number * number) for number in range(2000)]
    assert await asyncio.gather(*futures) == [number * number for number in range(2000)]


async def test_what_work_raises_reaches_who_waits_and_no_one_else(pool):
    futures = [pool.submit(lambda number=number: 1 / (number % 2)) for number in range(6)]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError, float] * 3


async def test_a_result_does_not_wait_for_the_work_after_it():
    pool, allowed = WorkPool(1, "test"), threading.Event()
    quick, slow = pool.submit(lambda: "quick"), pool.submit(lambda: allowed.wait(30))
    assert await asyncio.wait_for(quick, 10) == "quick"
    assert not slow.done()
    allowed.set()
    assert await slow
    pool.close()


async def test_work_that_is_given_up_before_its_turn_is_not_begun():
    pool, allowed, ran = WorkPool(1, "test"), threading.Event(), []
    first = pool.submit(lambda: allowed.wait(30))
    given_up, last = pool.submit(lambda: ran.append("given up")), pool.submit(lambda: ran.append("last"))
    given_up.cancel()
    allowed.set()
    await asyncio.gather(first, last)
    assert ran == ["last"]
    pool.close()


class Counting(GuessEnvironment):
    """Counts the games that were made."""

    def __init__(self):
        self.made = 0

    def game(self, task):
        self.made += 1
        return super().game(task)


async def test_a_task_is_begun_once_and_its_players_do_not_meet():
    factory = Counting()
    service = EnvironmentService(factory, EnvironmentSettings(name="guess"), get_logger("test"))
    first, second = service.store.open(2)
    begun = await service.reset(first, ResetSpec(index=3))
    await service.step(first, "50")
    assert await service.reset(second, ResetSpec(index=3)) == begun
    assert (first.steps, second.steps, factory.made) == (1, 0, 1)
    await service.reset(second, ResetSpec(index=4))
    assert factory.made == 2
    service.close()


def test_the_start_that_was_used_least_recently_gives_up_its_place():
    environment, kept = GuessEnvironment(), ResetCache(2)
    tasks = [Task("guess", "train", index) for index in range(3)]
    for task in tasks[:2]:
        episode = environment.start(task)
        kept.add((episode, episode.observe()))
    assert kept.fork(tasks[0]) is not None
    episode = environment.start(tasks[2])
    kept.add((episode, episode.observe()))
    assert [kept.fork(task) is not None for task in tasks] == [True, False, True]


def test_no_start_is_kept_where_none_is_wanted():
    kept, episode = ResetCache(0), GuessEnvironment().start(Task("guess", "train", 0))
    kept.add((episode, episode.observe()))
    assert kept.fork(episode.task) is None
