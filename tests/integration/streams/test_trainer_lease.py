"""Only one process at a time trains a run, even if processes are killed, frozen or started."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from arlarena.proto.streams.connection import TrainerLeaseLost
from arlarena.proto.streams.queue import StreamError, Streams
from arlarena.proto.streams.trainer_lease import LeaseHeld, TrainerLease

HOLDER = Path(__file__).with_name("lease_holder.py")
Start = Callable[..., "Process"]


class Process:
    """A process that takes the lease like a trainer."""

    def __init__(self, url: str, run: str, incarnation: str, ttl_s: float) -> None:
        arguments = [sys.executable, str(HOLDER), url, run, incarnation, "--ttl", str(ttl_s)]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def say(self, word: str) -> str:
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.line()

    def kill(self, *, reap: bool = True) -> None:
        self.process.kill()
        if reap:
            self.process.wait()


@pytest.fixture
def start(redis_url: str, run_name: str) -> Iterator[Start]:
    """`start(incarnation, ttl_s)`: a process that acquires the lease."""
    started: list[Process] = []

    def one_more(incarnation: str, ttl_s: float = 15.0) -> Process:
        started.append(Process(redis_url, run_name, incarnation, ttl_s))
        return started[-1]

    yield one_more
    for process in started:
        process.process.send_signal(signal.SIGCONT)
        process.kill()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def key(run: str) -> str:
    return f"arl:{{{run}}}:trainer"


def foreign(incarnation: str = "far", host: str = "another-host") -> str:
    fields = {"host": host, "incarnation": incarnation, "machine": "m", "nonce": "n", "pid": 1, "started": 1}
    return json.dumps(fields)


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_released_lease_is_free_at_once(redis_url, run_name, redis) -> None:
    with TrainerLease.acquire(redis_url, run_name, "first") as first:
        first.check()
        assert json.loads(redis.get(key(run_name)))["pid"] == os.getpid()
        assert 0 < redis.pttl(key(run_name)) <= 15_000
    assert not redis.exists(key(run_name))
    first.release()  # a second time
    with TrainerLease.acquire(redis_url, run_name, "second") as second:
        second.check()
        with pytest.raises(StreamError, match="released run"):
            first.check()


def test_a_running_holder_on_this_host_is_named_at_once(redis_url, run_name, start) -> None:
    holder = start("incarnation-1")
    assert holder.line() == "held"
    started = time.monotonic()
    with pytest.raises(LeaseHeld) as caught:
        TrainerLease.acquire(redis_url, run_name, "incarnation-2")
    assert time.monotonic() - started < 2.0
    assert str(caught.value) == (
        f"run {run_name} is being trained by trainer incarnation-1 (pid {holder.pid} on {os.uname().nodename}): "
        "stop it, wait until it ends, or use another run name"
    )
    assert holder.say("check") == "ok"
    assert holder.say("release") == "ok"
    TrainerLease.acquire(redis_url, run_name, "incarnation-2").release()


def test_of_many_processes_one_gets_the_lease(start) -> None:
    processes = [start(f"t{i}") for i in range(4)]
    outcomes = [process.line().partition(":")[0] for process in processes]
    assert sorted(outcomes) == ["LeaseHeld", "LeaseHeld", "LeaseHeld", "held"]
    assert processes[outcomes.index("held")].say("check") == "ok"


@pytest.mark.parametrize("reap", [True, False], ids=["reaped", "zombie"])
def test_the_lease_of_a_killed_process_is_taken_over_before_it_expires(redis_url, run_name, redis, start, reap) -> None:
    holder = start("doomed", ttl_s=60.0)
    assert holder.line() == "held"
    holder.kill(reap=reap)
    if not reap:
        until(lambda: Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    assert redis.pttl(key(run_name)) > 30_000
    started = time.monotonic()
    with TrainerLease.acquire(redis_url, run_name, "heir", ttl_s=60.0) as lease:
        assert time.monotonic() - started < 2.0
        lease.check()


def test_a_lease_of_an_earlier_process_with_a_reused_pid_is_taken_over(redis_url, run_name, redis, start) -> None:
    living = start("living")
    assert living.line() == "held"
    value = json.loads(redis.get(key(run_name)))
    # The pid belongs to a running process that started later than the time in the lease.
    redis.set(key(run_name), json.dumps(value | {"started": value["started"] - 1}), px=60_000)
    with TrainerLease.acquire(redis_url, run_name, "heir") as lease:
        lease.check()
        assert living.say("check").startswith("TrainerLeaseLost: trainer living")


def test_the_same_process_may_acquire_the_lease_again(redis_url, run_name, redis) -> None:
    first = TrainerLease.acquire(redis_url, run_name, "first")
    second = TrainerLease.acquire(redis_url, run_name, "second")
    second.check()
    with pytest.raises(TrainerLeaseLost, match=r"trainer first .* lost run .* to trainer second"):
        first.check()
    first.release()
    assert json.loads(redis.get(key(run_name)))["incarnation"] == "second"
    second.release()


def test_another_hosts_lease_is_waited_for_until_it_expires(redis_url, run_name, redis) -> None:
    redis.set(key(run_name), foreign(), px=700)
    started = time.monotonic()
    with TrainerLease.acquire(redis_url, run_name, "t", ttl_s=5.0) as lease:
        assert 0.5 < time.monotonic() - started < 3.0
        lease.check()


def test_another_hosts_renewed_lease_is_an_error(redis_url, run_name, redis) -> None:
    redis.set(key(run_name), foreign(), px=3_000)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(0.3):
            redis.pexpire(key(run_name), 3_000)

    thread = threading.Thread(target=renew)
    thread.start()
    started = time.monotonic()
    try:
        with pytest.raises(LeaseHeld, match=r"trainer far \(pid 1 on another-host\)"):
            TrainerLease.acquire(redis_url, run_name, "t", ttl_s=5.0)
    finally:
        stop.set()
        thread.join()
    assert time.monotonic() - started < 2.5


def test_the_wait_for_a_lease_ends_after_the_ttl(redis_url, run_name, redis) -> None:
    def waited(place: int, value: str) -> float:
        run = f"{run_name}-{place}"
        redis.set(key(run), value, px=60_000)
        started = time.monotonic()
        with pytest.raises(LeaseHeld):
            TrainerLease.acquire(redis_url, run, "t", ttl_s=0.5)
        return time.monotonic() - started

    values = (foreign(), "not JSON", "[]")
    with ThreadPoolExecutor(len(values)) as pool:
        for seconds in pool.map(waited, range(len(values)), values):
            assert 1.0 < seconds < 4.0


def test_a_frozen_process_detects_another_holder(redis_url, run_name, redis, start) -> None:
    frozen = start("frozen", ttl_s=0.5)
    assert frozen.line() == "held"
    os.kill(frozen.pid, signal.SIGSTOP)
    until(lambda: not redis.exists(key(run_name)))
    with TrainerLease.acquire(redis_url, run_name, "successor") as successor:
        os.kill(frozen.pid, signal.SIGCONT)
        answer = frozen.say("check")
        assert re.fullmatch(
            rf"TrainerLeaseLost: trainer frozen \(pid \d+ on .*\) lost run {run_name} to trainer successor \(.*\), "
            "and stops without writing",
            answer,
        )
        successor.check()


def test_a_frozen_process_detects_a_holder_that_has_finished(redis_url, run_name, redis, start) -> None:
    frozen = start("frozen", ttl_s=0.5)
    assert frozen.line() == "held"
    os.kill(frozen.pid, signal.SIGSTOP)
    until(lambda: not redis.exists(key(run_name)))
    TrainerLease.acquire(redis_url, run_name, "successor").release()
    os.kill(frozen.pid, signal.SIGCONT)
    assert "to trainer successor" in frozen.say("check")
    assert not redis.exists(key(run_name))


def test_a_frozen_process_continues_if_no_other_took_the_lease(run_name, redis, start) -> None:
    frozen = start("frozen", ttl_s=0.5)
    assert frozen.line() == "held"
    os.kill(frozen.pid, signal.SIGSTOP)
    until(lambda: not redis.exists(key(run_name)))
    os.kill(frozen.pid, signal.SIGCONT)
    assert frozen.say("check") == "ok"
    assert redis.exists(key(run_name))


def test_the_thread_keeps_the_lease_while_the_trainer_computes(redis_url, run_name, redis) -> None:
    with TrainerLease.acquire(redis_url, run_name, "t", ttl_s=0.6):
        end = time.monotonic() + 1.4
        while time.monotonic() < end:
            assert redis.exists(key(run_name))


async def test_reset_keeps_the_lease(redis_url, run_name) -> None:
    with TrainerLease.acquire(redis_url, run_name, "t") as lease:
        async with await Streams.connect(redis_url, run_name) as streams:
            await streams.reset()
        with Redis.from_url(redis_url) as redis:
            assert redis.exists(key(run_name))
        lease.check()


def test_a_lease_that_the_broker_lost_is_taken_again(broker) -> None:
    with TrainerLease.acquire(broker.url, "r", "t") as lease, Redis.from_url(broker.url) as redis:
        redis.flushall()
        lease.check()
        assert redis.exists(key("r"))


def test_the_lease_survives_a_restart_of_the_broker_and_check_waits_for_it(broker) -> None:
    with TrainerLease.acquire(broker.url, "r", "t", ttl_s=1.0, reconnect_s=20.0) as lease:
        kill(broker)
        restart = threading.Timer(0.7, broker.start)
        restart.start()
        lease.check()
        restart.join()
        with Redis.from_url(broker.url) as redis:
            end = time.monotonic() + 1.4
            while time.monotonic() < end:
                assert redis.exists(key("r"))


def test_check_fails_if_the_broker_is_unreachable_for_reconnect_s(broker) -> None:
    with TrainerLease.acquire(broker.url, "r", "t", ttl_s=1.0, timeout_s=0.5, reconnect_s=0.8) as lease:
        kill(broker)
        started = time.monotonic()
        with pytest.raises(StreamError, match=r"no Redis at redis://:\*\*\*@127.0.0.1:\d+/0: either start"):
            lease.check()
        assert 0.3 < time.monotonic() - started < 3.0


def test_messages_do_not_contain_the_password(broker) -> None:
    with pytest.raises(StreamError, match="refused the user or password") as caught:
        TrainerLease.acquire(f"redis://:hidden@127.0.0.1:{broker.port}/0", "r", "t")
    assert "hidden" not in str(caught.value)


def test_a_lease_is_acquired_and_kept_on_a_full_broker(broker) -> None:
    with Redis.from_url(broker.url) as redis, TrainerLease.acquire(broker.url, "r", "t", ttl_s=0.6) as lease:
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] - 150_000)
        with pytest.raises(OutOfMemoryError):
            redis.set("any", "write")
        with TrainerLease.acquire(broker.url, "other", "t") as other:
            other.check()
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert redis.exists(key("r"))
        lease.check()


def kill(broker) -> None:
    os.kill(broker.process.pid, signal.SIGKILL)
    broker.process.wait()
