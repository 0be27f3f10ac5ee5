"""Monitoring of a replica continues after any failure of the replica."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from arlarena.inference.api.asgi import ApiRequest
from arlarena.inference.api.errors import RequestError
from arlarena.inference.gateway import adapters
from arlarena.inference.gateway.fleet import Fleet
from arlarena.inference.gateway.proxy import Proxy, _ReplicaFailed
from arlarena.inference.gateway.replica import Replica, Target
from arlarena.inference.gateway.weight_drivers import RestartNeeded
from arlarena.inference.weights.versions import ProbeError, VersionError
from arlarena.proto.policy import VERSIONS_HEADER
from arlarena.proto.telemetry import Logger

WANTED = Target("run:1:x", Path("/nowhere"))


class Driver:
    """Raises the given failures one after another, then serves the pushed version."""

    probes_before_serving = False

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


async def maintain(one, until, target=WANTED):
    task = asyncio.create_task(one.maintain(lambda: target))
    async with asyncio.timeout(5):
        while not until():
            assert not task.done()
            await asyncio.sleep(0.005)
    task.cancel()


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), TypeError("x"), aiohttp.ClientError(), OSError()])
async def test_an_unexpected_error_of_a_push_is_retried(error):
    one = replica(Driver(error))
    await maintain(one, lambda: one.state == "ready")
    assert one.driver.pushed == 2
    assert one.version == one.probed == WANTED.label


async def test_a_replica_that_is_down_for_long_is_still_checked():
    one = replica(Driver())
    one._failures = 5000
    assert 0 < one._pause_s <= 0.01
    await maintain(one, lambda: one.state == "ready")


async def test_a_push_that_failed_half_way_restarts_the_replica():
    one, restarts = replica(Driver(RestartNeeded("half"), served="old")), []
    one.restart = lambda: restarts.append(one.state)
    await maintain(one, lambda: one.state == "ready")
    assert restarts == ["down"]


async def test_a_version_that_was_not_probed_is_pushed_again():
    one = replica(Driver(served=WANTED.label))
    await maintain(one, lambda: one.state == "ready")
    assert one.driver.pushed == 1


async def test_a_version_that_failed_its_probe_is_refused_until_it_is_pushed_again():
    one = replica(Driver(ProbeError("wrong"), served=WANTED.label))
    await maintain(one, lambda: one.state == "refused")
    await maintain(one, lambda: one.state == "refused")
    assert one.driver.pushed == 1
    assert one.failure_reason(WANTED) == "wrong"
    again = Target(WANTED.label, WANTED.source)
    await maintain(one, lambda: one.state == "ready", again)
    assert one.driver.pushed == 2


async def test_a_second_failure_in_the_same_state_notifies_waiters():
    one = replica(Driver(VersionError("other shape"), VersionError("other shape")))
    await maintain(one, lambda: one.state == "behind" and one.failure_reason(WANTED))
    notified = []
    one.on_change = lambda: notified.append(one.failure_reason(again))
    again = Target(WANTED.label, WANTED.source)
    await maintain(one, lambda: one.failure_reason(again), again)
    assert notified[-1] == "other shape"


async def test_an_adapter_request_without_an_answer_in_time_is_status_502(monkeypatch):
    monkeypatch.setattr(adapters, "_LIMIT_S", 0.05)

    async def answer_never(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer_never, "127.0.0.1", 0)
    async with server, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        one = Replica("one", url, session, Driver(), 0.01, Logger("test", "error"))
        one.state = "ready"
        fleet = Fleet([one], 0, Logger("test", "error"))
        body = b'{"lora_name": "x", "lora_path": "/x"}'
        call = ApiRequest("POST", "/v1/load_lora_adapter", body, [], b"", _never)
        with pytest.raises(RequestError, match="one failed: TimeoutError") as error:
            await adapters.Adapters(fleet).load(call)
    assert error.value.status == 502


async def _never():
    raise AssertionError("the handler has the complete body already")


class SlowDriver(Driver):
    """Its push ends when `end` is set."""

    def __init__(self):
        super().__init__()
        self.end = asyncio.Event()

    async def push(self, directory):
        await self.end.wait()
        return await super().push(directory)


class Reply:
    """The response of a replica that has sampled with `version`."""

    def __init__(self, version):
        self.headers, self.closed = {VERSIONS_HEADER: version}, False

    def close(self):
        self.closed = True


def check_versions(one, first_version, reply):
    Proxy._check_versions(None, one, first_version, reply)


async def test_a_request_that_begins_during_a_push_may_be_sampled_by_the_old_version():
    one = replica(SlowDriver())
    await maintain(one, lambda: one.state == "ready", target=None)
    task = asyncio.create_task(one.maintain(lambda: WANTED))
    async with asyncio.timeout(5):
        while one.state != "pushing":
            await asyncio.sleep(0.005)
        during = one.first_expected
        for version in ("old", WANTED.label):
            check_versions(one, during, Reply(version))
        assert one.state == "pushing"
        one.driver.end.set()
        while one.state != "ready":
            await asyncio.sleep(0.005)
    task.cancel()
    assert one.history[during:] == ["old", WANTED.label]
    old = Reply("old")
    with pytest.raises(_ReplicaFailed, match=f"sampled with the weight versions old; expected: {WANTED.label}"):
        check_versions(one, one.first_expected, old)
    assert (one.state, old.closed) == ("down", True)
