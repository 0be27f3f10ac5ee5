"""Who looks after a replica goes on doing so, whatever the replica answers."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from arlarena.inference.gateway.replica import Replica, Target
from arlarena.inference.gateway.weight_drivers import Broken
from arlarena.inference.weights.versions import ProbeError, VersionError
from arlarena.proto.telemetry import Logger

WANTED = Target("run:1:x", Path("/nowhere"))


class Driver:
    """Fails with what it is given, then serves what it is pushed."""

    checks_first = False

    def __init__(self, *failures, served="old"):
        self.failures, self.served, self.pushed = list(failures), served, 0

    async def version(self):
        return self.served

    async def push(self, directory):
        self.pushed += 1
        if self.failures:
            raise self.failures.pop(0)
        self.served = WANTED.label
        return 0.0


def replica(driver):
    return Replica("one", "http://one", None, driver, 0.01, Logger("test", "error"))


async def kept(one, until, target=WANTED):
    keeper = asyncio.create_task(one.keep(lambda: target))
    async with asyncio.timeout(5):
        while not until():
            assert not keeper.done()
            await asyncio.sleep(0.005)
    keeper.cancel()


@pytest.mark.parametrize("odd", [KeyError("x"), ValueError("x"), TypeError("x"), aiohttp.ClientError(), OSError()])
async def test_an_odd_answer_is_a_failure_like_any_other(odd):
    one = replica(Driver(odd))
    await kept(one, lambda: one.state == "ready")
    assert one.driver.pushed == 2
    assert one.version == one.checked == WANTED.label


async def test_one_that_is_down_for_long_is_still_looked_at():
    one = replica(Driver())
    one._failures = 5000
    assert 0 < one._pause_s <= 0.01
    await kept(one, lambda: one.state == "ready")


async def test_a_push_that_failed_half_way_starts_it_anew_and_is_not_believed():
    one, renewed = replica(Driver(Broken("half"), served="old")), []
    one.renew = lambda: renewed.append(one.state)
    await kept(one, lambda: one.state == "ready")
    assert renewed == ["down"]


async def test_a_version_that_nobody_checked_is_pushed_again_though_it_says_it_has_it():
    one = replica(Driver(served=WANTED.label))
    await kept(one, lambda: one.state == "ready")
    assert one.driver.pushed == 1


async def test_what_failed_its_probe_is_refused_until_it_is_asked_for_again():
    one = replica(Driver(ProbeError("wrong"), served=WANTED.label))
    await kept(one, lambda: one.state == "refused")
    await kept(one, lambda: one.state == "refused")
    assert one.driver.pushed == 1
    assert one.failed(WANTED) == "wrong"
    again = Target(WANTED.label, WANTED.source)
    await kept(one, lambda: one.state == "ready", again)
    assert one.driver.pushed == 2


async def test_whoever_waits_learns_of_a_second_failure_in_the_same_state():
    one = replica(Driver(VersionError("other shape"), VersionError("other shape")))
    await kept(one, lambda: one.state == "behind" and one.failed(WANTED))
    told = []
    one.changed = lambda: told.append(one.failed(again))
    again = Target(WANTED.label, WANTED.source)
    await kept(one, lambda: one.failed(again), again)
    assert told[-1] == "other shape"
