"""Environments whose steps block: nobody else waits for them, and a step that is given up has moved nothing."""

import asyncio
import threading
from typing import ClassVar

import pytest

from arlarena.env_server.api import batches
from arlarena.env_server.errors import ApiError
from arlarena.env_server.sessions.service import EnvironmentService
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.environments.guess.environment import Guess, GuessEnvironment
from arlarena.proto.env_api import Action, BatchItem, BatchRequest, CreateSessions, ResetSpec
from arlarena.proto.telemetry import get_logger


class SlowGuess(Guess):
    """A guess of 50 is answered only when the test allows it; the game says which threads it was played in."""

    allowed = threading.Event()
    begun = threading.Event()
    threads: ClassVar[set[str]] = set()

    def play(self, action):
        self.threads.add(threading.current_thread().name)
        if action == "50":
            self.begun.set()
            assert self.allowed.wait(30)
        return super().play(action)


class SlowEnvironment(GuessEnvironment):
    blocking = True

    def game(self, task):
        return SlowGuess(super().game(task).secret)


@pytest.fixture
def service():
    SlowGuess.allowed, SlowGuess.begun, SlowGuess.threads = threading.Event(), threading.Event(), set()
    settings = EnvironmentSettings(name="guess", step_timeout_s=0.2)
    made = EnvironmentService(SlowEnvironment(), settings, get_logger("test"))
    yield made
    SlowGuess.allowed.set()
    made.close()


async def opened(service, count):
    await service.open(CreateSessions(count, [ResetSpec(index=1)]))
    return list(service.store)


async def begun():
    while not SlowGuess.begun.is_set():
        await asyncio.sleep(0.001)


async def test_others_play_while_one_step_blocks(service):
    slow, quick = await opened(service, 2)
    waiting = asyncio.ensure_future(service.step(slow, "50"))
    await begun()
    assert (await service.step(quick, "49")).observation.step == 1
    assert not waiting.done()
    SlowGuess.allowed.set()
    assert (await waiting).observation.step == 1
    assert all(name.startswith("episode-") for name in SlowGuess.threads)


async def test_a_step_that_takes_too_long_has_moved_nothing(service):
    (session,) = await opened(service, 1)
    first = await service.step(session, "49", 0)
    with pytest.raises(ApiError, match=r"the step took longer than 0\.2 s") as caught:
        await service.step(session, "50", 1)
    assert (caught.value.status, caught.value.blame, caught.value.retryable) == (504, "infra", True)
    assert session.steps == 1
    assert await service.step(session, "49", 0) is first  # still the last step: repeated, not played
    SlowGuess.allowed.set()
    assert (await service.step(session, "50", 1)).observation.step == 2


async def test_a_batch_waits_for_all_of_them_side_by_side(service):
    sessions = await opened(service, 2)
    items = [BatchItem(session_id=one.id, op="step", action=Action(text)) for text in ("50", "49") for one in sessions]
    batch = asyncio.ensure_future(batches.run_batch(service, BatchRequest(items)))
    await begun()
    SlowGuess.allowed.set()
    results = await batch
    assert [(result.ok, result.observation.step) for result in results] == [(True, 1), (True, 1), (True, 2), (True, 2)]


async def test_the_first_step_in_no_session_is_taken_in_a_thread_too(service):
    assert (await service.first_step("49")).observation.step == 1
    assert len(SlowGuess.threads) == 1
    assert SlowGuess.threads.pop().startswith("episode-")
