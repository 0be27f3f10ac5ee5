"""A connection to the broker (Redis or Valkey), with reconnection after failures. Error messages describe the fix.

If the reply to a command is lost, the client sends the command again. `lua_scripts.py` describes the effect of repeated
scripts. If the reply to a read is lost, the entries of this reply stay pending and can be claimed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from redis import exceptions as errors
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from arlarena.proto.streams.lease_holder import Holder
from arlarena.proto.streams.lua_scripts import FENCED

T = TypeVar("T")

# Each blocking read needs its own connection. No process has this number of concurrent reads.
_MAX_CONNECTIONS = 4096
# The first and the longest pause between two attempts of a command, in seconds.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_PASSWORD_OPTION = re.compile(r"([?&]password=)[^&#]*")
_UNQUOTED_PASSWORD = re.compile(r"^([^:]*://[^:]*:).*@", re.DOTALL)
# The broker's error codes for a missing consumer group, and for a blocking read whose consumer group was removed.
_LOST_GROUP = ("NOGROUP", "UNBLOCKED")


class StreamError(RuntimeError):
    """The broker is unreachable or refuses a command. The message contains the broker's URL without the password."""


class BrokerFull(StreamError):
    """The broker refused a command or script because its memory is full (`maxmemory`). The command changed nothing."""


class TrainerLeaseLost(StreamError):
    """Another trainer has taken the lease of the run. The refused call changed nothing, and the caller must stop."""


def redact(url: str) -> str:
    """Returns `url` without its password, for messages and logs."""
    url = _PASSWORD_OPTION.sub(r"\1***", url)
    parts = urlsplit(url)
    if "@" not in parts.netloc and "@" in url:  # the password contains '/', '?' or '#' without percent-encoding
        return _UNQUOTED_PASSWORD.sub(r"\1***@", url)
    credentials, at, host = parts.netloc.rpartition("@")
    user, colon, _ = credentials.partition(":")
    return urlunsplit(parts._replace(netloc=f"{user}:***@{host}")) if at and colon else url


class Link:
    """Sends commands and scripts to one broker, and sends them again after temporary failures."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        reconnect_s: float,
        full_timeout_s: float,
        repair: Callable[[], Awaitable[None]],
    ) -> None:
        """`timeout_s`: time limit for connecting and for each reply.

        `reconnect_s`: maximum time of retries while the broker is unreachable. `full_timeout_s`: maximum time of
        retries while the broker's memory is full. `repair`: creates missing streams and consumer groups.

        Raises:
            StreamError: `url` is not a Redis URL.
        """
        self.url = redact(url)
        self.losses = 0  # number of failed attempts; the broker may have executed a command whose reply was lost
        self._reconnect_s, self._full_timeout_s, self._repair = reconnect_s, full_timeout_s, repair
        try:
            self._redis = Redis.from_url(
                url,
                # With protocol 3, the reply to XREADGROUP would have another form.
                protocol=2,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                max_connections=_MAX_CONNECTIONS,
                # `_repeat` does all retries and limits their time, so redis-py must not retry.
                retry=Retry(NoBackoff(), 0),
                **keep_alive(url),
            )
        except ValueError as error:
            raise bad_url_error(url, error) from error

    async def close(self) -> None:
        """Close the connections. Ignores errors, because they would hide an earlier error of the caller."""
        with contextlib.suppress(errors.RedisError, OSError):
            await self._redis.aclose()

    async def first_contact(self) -> None:
        """Connect and run `repair`. Retries while the broker loads its data, but not if the broker is unreachable.

        Raises:
            BrokerFull: a consumer group is missing, and the broker's memory is full.
            StreamError: the broker is unreachable or refuses the connection.
        """
        await self._repeat(self._repair, reconnect_s=0.0)

    async def command(self, *args: Any) -> Any:
        """Execute one command. Returns the broker's reply. Retries after temporary failures.

        Raises:
            BrokerFull: the broker's memory is full for `full_timeout_s`.
            StreamError: the broker is unreachable for `reconnect_s` or refuses the command.
        """
        return await self._repeat(lambda: self.execute_without_retry(*args))

    async def execute_without_retry(self, *args: Any) -> Any:
        """Execute one command without retries, for use inside `repair`. Raises the errors of redis-py."""
        return await self._redis.execute_command(*args)  # type: ignore[no-untyped-call]

    async def script(
        self, source: str, keys: Sequence[str], args: Sequence[Any], *, full_timeout_s: float | None = None
    ) -> Any:
        """Run the Lua script `source`. Returns the script's result. Retries after temporary failures.

        `full_timeout_s`: replaces the `full_timeout_s` of `__init__` for this call.

        Raises:
            BrokerFull: the broker's memory is full for `full_timeout_s`.
            TrainerLeaseLost: another trainer has taken the lease of the run.
            StreamError: the broker is unreachable for `reconnect_s` or refuses the script.
        """
        run = self._redis.register_script(source)
        return await self._repeat(lambda: run(keys=keys, args=args), full_timeout_s=full_timeout_s)

    async def _repeat(
        self, call: Callable[[], Awaitable[T]], *, reconnect_s: float | None = None, full_timeout_s: float | None = None
    ) -> T:
        """Await `call()`, and return its result. Retries until a time limit if the failure is temporary.

        These failures are temporary: the broker is unreachable, loads its data, is full, or has lost a consumer group.

        Raises:
            StreamError: the failure is not temporary, or the time limit was reached. See `stream_error`.
        """
        started, pause, group_lost = time.monotonic(), _FIRST_PAUSE_S, False
        reconnect_s = self._reconnect_s if reconnect_s is None else reconnect_s
        full_timeout_s = self._full_timeout_s if full_timeout_s is None else full_timeout_s
        while True:
            try:
                if group_lost:
                    await _cancellable(self._repair)
                return await _cancellable(call)
            except (errors.RedisError, OSError) as error:
                self.losses += 1
                group_lost = any(word in str(error) for word in _LOST_GROUP)
                loading, full = isinstance(error, errors.BusyLoadingError), is_full(error)
                limit = full_timeout_s if full else self._reconnect_s if loading or group_lost else reconnect_s
                temporary = group_lost or full or is_network(error)
                if not temporary or time.monotonic() - started + pause > limit:
                    raise stream_error(self.url, error) from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def keep_alive(url: str) -> dict[str, Any]:
    """Returns redis-py's option for TCP keep-alive. Returns {} for a Unix socket, because it has no such option."""
    return {} if url.startswith("unix:") else {"socket_keepalive": True}


def bad_url_error(url: str, error: Exception) -> StreamError:
    """Returns the `StreamError` for a broker URL that redis-py cannot parse. `error`: redis-py's error."""
    hint = "write redis://HOST:PORT/0, rediss://… or unix://…"
    # redis-py may interpret a part of the password as the port. Its error message then contains that part.
    detail = "percent-encode special characters of the password" if "@" in url else str(error)
    return StreamError(f"{redact(url)!r} is not the URL of a Redis server: {hint} ({detail})")


def stream_error(url: str, error: Exception) -> StreamError:
    """Returns the `StreamError` that replaces redis-py's `error`. `url`: the broker's URL without the password."""
    detail = str(error) or type(error).__name__
    if detail.startswith(FENCED):
        winner = Holder.decode(detail.removeprefix(FENCED).encode())
        return TrainerLeaseLost(f"{winner} has taken over the run, so this trainer stops without writing")
    if isinstance(error, errors.AuthenticationError | errors.AuthorizationError):
        hint = "either correct the URL, or set REDIS_PASSWORD or REDIS_PASSWORD_FILE"
        return StreamError(f"Redis at {url} refused the user or password: {hint} ({detail})")
    if is_network(error):
        hint = "either start a Redis server there, or unset REDIS_URL so that `arlarena up` starts its own server"
        return StreamError(f"no Redis at {url}: {hint} ({detail})")
    if is_full(error):
        hint = "either raise its maxmemory, or lower [trainer] staleness or [trainer] groups_per_step"
        return BrokerFull(f"the memory of Redis at {url} is full: {hint} ({detail})")
    if isinstance(error, errors.InvalidResponse):
        return StreamError(f"the server at {url} is not Redis: correct the URL ({detail})")
    return StreamError(f"Redis at {url} refused a command: {detail}")


async def _cancellable(call: Callable[[], Awaitable[T]]) -> T:
    """Await `call()`, and return its result. A cancellation of the current task is never lost.

    redis-py calls `asyncio.wait_for` for each write. Before Python 3.12, `wait_for` loses a cancellation that arrives
    at the end of the write. Without this function, a worker's renewal loop could continue after its cancellation.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        return await call()
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


def is_network(error: Exception) -> bool:
    """True if `error` is a network error, so that a retry may succeed. False for a refused user or password."""
    if isinstance(error, errors.AuthenticationError | errors.AuthorizationError):
        return False
    return isinstance(error, errors.ConnectionError | errors.TimeoutError | OSError)


def is_full(error: Exception) -> bool:
    """True if `error` says that the broker's memory is full."""
    return isinstance(error, errors.OutOfMemoryError) or "command not allowed when used memory" in str(error)
