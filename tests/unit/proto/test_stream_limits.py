"""Errors that need no broker."""

import pytest

from arlarena.proto.streams.queue import StreamError, Streams, redact
from arlarena.proto.streams.trainer_lease import TrainerLease


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:secret@host:1/0", "redis://:***@host:1/0"),
        ("rediss://user:p@ss@host:1/3?x=1", "rediss://user:***@host:1/3?x=1"),
        ("redis://user@host", "redis://user@host"),
        ("redis://:sec/ret#x@host:1/0", "redis://:***@host:1/0"),
        ("redis://host/0?password=secret&db=1", "redis://host/0?password=***&db=1"),
        ("unix:///tmp/s.sock", "unix:///tmp/s.sock"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize("run", ["", "a b", "{x}", "../x", "-x", "é", "x" * 101, "a:b", "a\n"])
async def test_a_run_name_that_would_break_the_keys_is_refused(run: str) -> None:
    with pytest.raises(ValueError, match="run name"):
        await Streams.connect("redis://127.0.0.1:1/0", run)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout_s", 0),
        ("lease_ttl_s", -1.0),
        ("max_deliveries", 0),
        ("reconnect_s", -0.1),
        ("retry_delay_s", float("nan")),
        ("full_timeout_s", -1.0),
    ],
)
async def test_an_invalid_limit_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        await Streams.connect("redis://127.0.0.1:1/0", "r", **{name: value})


async def test_an_unreachable_broker_is_named_without_its_password() -> None:
    with pytest.raises(StreamError) as caught:
        await Streams.connect("redis://:secret@127.0.0.1:1/0", "r", reconnect_s=60.0)
    assert "no Redis at redis://:***@127.0.0.1:1/0: either start a Redis server there" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_an_unquoted_password_is_not_shown() -> None:
    for connect in (Streams.connect, _acquire):
        with pytest.raises(StreamError, match="percent-encode special characters") as caught:
            await connect("redis://:sec/ret@127.0.0.1:1/0", "r")
        assert "sec" not in str(caught.value).replace("secial", "")
        assert "ret" not in str(caught.value)


async def _acquire(url: str, run: str) -> TrainerLease:
    return TrainerLease.acquire(url, run, "t")


@pytest.mark.parametrize(("name", "value"), [("ttl_s", 0), ("ttl_s", float("inf")), ("timeout_s", -1)])
def test_an_invalid_limit_of_the_lease_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        TrainerLease.acquire("redis://127.0.0.1:1/0", "r", "t", **{name: value})


def test_a_lease_without_a_broker_fails_at_once_with_url_and_fix() -> None:
    with pytest.raises(StreamError) as caught:
        TrainerLease.acquire("redis://:secret@127.0.0.1:1/0", "r", "t", reconnect_s=60.0)
    assert "no Redis at redis://:***@127.0.0.1:1/0: either start a Redis server there" in str(caught.value)


def test_a_run_name_that_would_break_the_lease_key_is_refused() -> None:
    with pytest.raises(ValueError, match="run name"):
        TrainerLease.acquire("redis://127.0.0.1:1/0", "{x}", "t")


@pytest.mark.parametrize("url", ["localhost:6379", "http://127.0.0.1", ""])
async def test_an_invalid_redis_url_is_named(url: str) -> None:
    with pytest.raises(StreamError, match="is not the URL of a Redis"):
        await Streams.connect(url, "r")
