"""A lease that allows only one process at a time to train a run.

    with TrainerLease.acquire(url, "demo", incarnation) as lease:
        ...
        lease.check()       # before each write that only one trainer may make

Two trainers of one run would take each other's groups and overwrite each other's checkpoints. The lease is a key on the
broker (Redis or Valkey) with a time to live. A thread of the trainer renews the lease. A suspended or disconnected
trainer cannot renew its lease, so another trainer can take the lease. The next `check` of the first trainer then raises
`TrainerLeaseLost`, even if the other trainer has already finished.

If a trainer was killed on this machine, `acquire` takes over its lease at once. If a trainer was killed on another
machine, `acquire` waits until the lease expires.

The trainer's event loop cannot renew the lease, because computation blocks the loop for minutes. The renewal thread
therefore uses blocking calls.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from typing import Any, Self

from redis import Redis
from redis import exceptions as errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from arlarena.proto.streams.connection import (
    StreamError,
    TrainerLeaseLost,
    bad_url_error,
    is_network,
    keep_alive,
    redact,
    stream_error,
)
from arlarena.proto.streams.entries import check_run_name
from arlarena.proto.streams.lease_holder import Holder, last_trainer_key

# The first and the longest pause between two attempts to reach the broker, in seconds.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5
# `acquire` waits for `ttl_s` plus this time, in seconds, until the lease of a trainer on another machine expires.
_MARGIN_S = 1.0
# The poll interval of `acquire` while it waits for the lease: a fraction of `ttl_s`, and the maximum in seconds.
_POLL_SHARE, _LONGEST_POLL_S = 0.05, 0.2
# How long the broker stores the key of the last trainer, in seconds. A suspended trainer that continues within this
# time detects the loss of its lease.
_LAST_TRAINER_AGE_S = 7 * 24 * 3600

# Takes the lease, or renews it. KEYS: the key of the lease, the key of the last trainer.
# ARGV: the value (encoded `Holder`) of our process; the time to live of the lease in ms; the time to live of the key of
# the last trainer in ms; the value of a dead holder that our process may replace, or ''; '1' if our process may replace
# another last trainer.
# Returns the value of the lease's holder, and the remaining time of the lease in ms. If the lease is free, but our
# process may not replace the last trainer, returns the value of the last trainer and 0. A renewal needs no memory, so a
# full broker accepts it.
_TAKE_OR_RENEW = """
local held, mine = redis.call('GET', KEYS[1]), ARGV[1]
if held == mine then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {mine, tonumber(ARGV[2])}
end
if held and held ~= ARGV[4] then return {held, redis.call('PTTL', KEYS[1])} end
local last = redis.call('GET', KEYS[2])
if ARGV[5] ~= '1' and last and last ~= mine then return {last, 0} end
-- A trainer must be able to start on a full broker, because its acknowledgements free the memory. A full broker accepts
-- SET only in a script that has already written, so DEL comes first.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], mine, 'PX', ARGV[2])
redis.call('SET', KEYS[2], mine, 'PX', ARGV[3])
return {mine, tonumber(ARGV[2])}
"""

# Renews the lease if our process holds it. KEYS: the key of the lease, the key of the last trainer.
# ARGV: the value of our process; the time to live of each key in ms. Returns 0 if our process does not hold the lease.
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# Deletes the key of the lease if our process holds the lease. KEYS: the key of the lease. ARGV: our process's value.
# The key of the last trainer remains. If an earlier trainer was suspended and continues, it finds this key and stops.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class LeaseHeld(StreamError):
    """Another trainer holds the lease of the run."""


class TrainerLease:
    """This process's lease on a run: while it lasts, no other process can train the run.

    Call `acquire` to create a lease. Use each lease in one thread only.
    """

    def __init__(
        self, url: str, run: str, holder: Holder, *, ttl_s: float, timeout_s: float, reconnect_s: float
    ) -> None:
        """Call `acquire` instead. This method prepares the lease but does not take it."""
        check_run_name(run)
        for name, value in (("ttl_s", ttl_s), ("timeout_s", timeout_s)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, not {value}")
        self.run, self.holder = run, holder
        self._url, self._ttl_s, self._reconnect_s = redact(url), ttl_s, reconnect_s
        self._value, self._ttl_ms = holder.encode(), max(1, int(ttl_s * 1000))
        self._keys = [f"arl:{{{run}}}:trainer", last_trainer_key(run)]
        options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "protocol": 2}
        try:
            # Two threads use this client. Its connection pool gives each thread its own connection.
            self._redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), **keep_alive(url), **options)
        except ValueError as error:
            raise bad_url_error(url, error) from error
        self._take_or_renew_script = self._redis.register_script(_TAKE_OR_RENEW)
        self._renew_script = self._redis.register_script(_RENEW)
        self._release_script = self._redis.register_script(_RELEASE)
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_released, name="trainer-lease", daemon=True)

    @classmethod
    def acquire(
        cls,
        url: str,
        run: str,
        incarnation: str,
        *,
        ttl_s: float = 15.0,
        timeout_s: float = 5.0,
        reconnect_s: float = 30.0,
    ) -> Self:
        """Acquire the trainer's lease of `run`. If a trainer on another machine has stopped, waits for its lease's end.

        `incarnation`: a random id of this trainer process, for error messages. `ttl_s`: time after which a lease
        without renewal expires, in seconds. `timeout_s`: time limit for connecting and for each reply. `reconnect_s`:
        maximum time of retries while the broker is unreachable. The first request is not retried if the broker is
        unreachable.

        Raises:
            LeaseHeld: a trainer on another machine renews the lease, or the holder's process runs on this machine.
            StreamError: the broker at `url` is unreachable or refuses a command.
            ValueError: the run's name or a limit is invalid.
        """
        holder = Holder.of_this_process(incarnation)
        lease = cls(url, run, holder, ttl_s=ttl_s, timeout_s=timeout_s, reconnect_s=reconnect_s)
        try:
            lease._wait_and_take()
        except BaseException:
            lease._redis.close()
            raise
        lease._thread.start()
        return lease

    @property
    def token(self) -> bytes:
        """The fencing token for `Streams.connect`. If another trainer takes the lease, scripts with this token fail."""
        return self._value

    def check(self) -> None:
        """Check that no other trainer has taken the lease. Takes the lease again if it has expired or is lost.

        Raises:
            TrainerLeaseLost: another trainer has taken the lease.
            StreamError: the broker is unreachable for `reconnect_s`, or this process has released the lease.
        """
        if self._released.is_set():
            raise StreamError(f"{self.holder} released run {self.run}: acquire the lease again")
        value, _ = self._take_or_renew(reconnect_s=self._reconnect_s)
        if value != self._value:
            winner = Holder.decode(value)
            raise TrainerLeaseLost(f"{self.holder} lost run {self.run} to {winner}, and stops without writing")

    def release(self) -> None:
        """Release the lease. Ignores errors of the broker, because the lease also expires without a release."""
        if not self._released.is_set():
            self._released.set()
            self._thread.join(timeout=self._ttl_s)
            with contextlib.suppress(errors.RedisError, OSError):
                self._release_script(keys=self._keys[:1], args=[self._value])
        self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _wait_and_take(self) -> None:
        """Take the lease. If its holder is on another machine, wait until the lease expires.

        Raises:
            LeaseHeld: the holder renews the lease, or its process runs on this machine.
            StreamError: the broker is unreachable or refuses a command.
        """
        deadline = time.monotonic() + self._ttl_s + _MARGIN_S
        dead, previous, reconnect_s = b"", (b"", 0), 0.0
        while True:
            value, left_ms = self._take_or_renew(reconnect_s=reconnect_s, dead_holder=dead, may_replace_last=True)
            if value == self._value:
                return
            holder = Holder.decode(value)
            if holder.is_here():
                if holder.is_alive():
                    raise self._lease_held_error(holder)
                dead = value
                continue
            renewed = previous[0] == value and left_ms > previous[1]
            changed = previous[0] not in (b"", value)
            if renewed or changed or time.monotonic() > deadline:
                raise self._lease_held_error(holder)
            previous, reconnect_s = (value, left_ms), self._reconnect_s
            time.sleep(min(_LONGEST_POLL_S, self._ttl_s * _POLL_SHARE))

    def _lease_held_error(self, holder: Holder) -> LeaseHeld:
        hint = "stop it, wait until it ends, or use another run name"
        return LeaseHeld(f"run {self.run} is being trained by {holder}: {hint}")

    def _take_or_renew(
        self, *, reconnect_s: float, dead_holder: bytes = b"", may_replace_last: bool = False
    ) -> tuple[bytes, int]:
        """Take or renew the lease if no other trainer has it. Returns (the holder's value, time to live in ms).

        The value is `Holder.encode` of the lease's holder after this call. `dead_holder`: value of a holder that no
        longer runs, so this process may take its lease. `may_replace_last`: whether this process may take a free lease
        if another process held it last. If it may not, returns (the value of that process, 0).

        Raises:
            StreamError: the broker is unreachable for `reconnect_s` or refuses a command.
        """
        args: list[bytes | int] = [
            self._value,
            self._ttl_ms,
            _LAST_TRAINER_AGE_S * 1000,
            dead_holder,
            int(may_replace_last),
        ]
        started, pause = time.monotonic(), _FIRST_PAUSE_S
        while True:
            try:
                value, left_ms = self._take_or_renew_script(keys=self._keys, args=args)
                return bytes(value), int(left_ms)
            except (errors.RedisError, OSError) as error:
                loading = isinstance(error, errors.BusyLoadingError)
                limit = self._reconnect_s if loading else reconnect_s
                if not is_network(error) or time.monotonic() - started + pause > limit:
                    raise stream_error(self._url, error) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _renew_until_released(self) -> None:
        pause_s = self._ttl_s / 3
        args: list[bytes | int] = [self._value, self._ttl_ms, _LAST_TRAINER_AGE_S * 1000]
        while not self._released.wait(pause_s):
            try:
                self._renew_script(keys=self._keys, args=args)
                pause_s = self._ttl_s / 3
            except Exception:  # `check` reports a lost lease
                pause_s = min(_LONGEST_PAUSE_S, self._ttl_s / 3)
