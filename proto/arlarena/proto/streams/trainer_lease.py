"""The right to train one run, held by one process at a time.

    with TrainerLease.acquire(url, "demo", incarnation) as lease:
        ...
        lease.check()       # before each write that a second trainer must not make as well

Two trainers of one run would take each other's groups and overwrite each other's checkpoints. The lease is a key of
the run, with a time to live that a thread renews. A trainer that was frozen for longer, or cut off from the broker,
finds out at its next `check` whether another trainer has taken the run since, also if that one has finished already.

A lease left behind by a killed process on this machine is taken over at once, one of another machine when it expires.

The calls block: a trainer computes for minutes on its event loop, and renews meanwhile from the thread.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from redis import Redis
from redis import exceptions as errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from arlarena.proto.streams.connection import StreamError, bad_url, explain, is_network, redact
from arlarena.proto.streams.entries import check_run_name

# The first and the longest pause between two attempts, in seconds.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5
# How much longer than `ttl_s` `acquire` waits for another machine's lease to expire.
_MARGIN_S = 1.0
# How often it looks, as a share of `ttl_s`, and at most.
_POLL_SHARE, _LONGEST_POLL_S = 0.05, 0.2
# How long the broker remembers the last trainer: longer than one is frozen.
_LAST_TRAINER_AGE_S = 7 * 24 * 3600

# KEYS: the lease, the last trainer. ARGV: our value, time to live in ms, how long to remember the last trainer in ms,
# the value of a dead holder to replace or '', whether to take the lease from any previous holder. Returns the holder
# and the remaining time of its lease in ms. Renewing needs no memory, and works on a full broker.
_HOLD = """
local held, mine = redis.call('GET', KEYS[1]), ARGV[1]
if held == mine then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {mine, tonumber(ARGV[2])}
end
if held and held ~= ARGV[4] then return {held, redis.call('PTTL', KEYS[1])} end
local last = redis.call('GET', KEYS[2])
if ARGV[5] ~= '1' and last and last ~= mine then return {last, 0} end
-- A script that has written may go on writing on a full broker. A trainer must be able to start there: only its
-- acknowledgements free the memory.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], mine, 'PX', ARGV[2])
redis.call('SET', KEYS[2], mine, 'PX', ARGV[3])
return {mine, tonumber(ARGV[2])}
"""

# KEYS: the lease, the last trainer. ARGV: our value, times to live of both in ms.
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# KEYS: the lease. ARGV: our value. The last trainer stays: an earlier, frozen one must find out.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class LeaseHeld(StreamError):
    """Another trainer has the run."""


class LeaseLost(StreamError):
    """Another trainer has taken the run; this one must not write any more."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds, or held, a lease.

    `machine` is the running kernel and the pid namespace, where the system tells: pids mean the same only within
    them. `started` tells a process from a later one with its pid; 0 is unknown. `nonce` differs with each `acquire`.
    """

    incarnation: str
    host: str
    machine: str
    pid: int
    started: int
    nonce: str

    @classmethod
    def of_this_process(cls, incarnation: str) -> Self:
        """The calling process."""
        pid = os.getpid()
        _, started = _stat(pid)
        return cls(incarnation, socket.gethostname(), _machine(), pid, started, uuid.uuid4().hex)

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """The holder in a key's value; one of an unknown machine where it cannot be read."""
        try:
            fields = json.loads(value)
            return cls(**{name: kind(fields[name]) for name, kind in _FIELDS.items()})
        except (ValueError, KeyError, TypeError):
            return cls("unknown", "an unknown host", "unknown", 0, 0, "")

    def encode(self) -> bytes:
        """The key's value."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    def is_here(self) -> bool:
        """Whether its pid means the same process to us as to it."""
        return self.host == socket.gethostname() and self.machine == _machine()

    def is_alive(self) -> bool:
        """Whether its process runs; only for one that `is_here`. A zombie does not run, and we are not it."""
        if self.pid == os.getpid():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except (PermissionError, OverflowError):
            pass
        state, started = _stat(self.pid)
        return state not in ("Z", "X") and not (self.started and started and started != self.started)

    def __str__(self) -> str:
        return f"trainer {self.incarnation} (pid {self.pid} on {self.host})"


_FIELDS = {"incarnation": str, "host": str, "machine": str, "pid": int, "started": int, "nonce": str}


class TrainerLease:
    """A held lease. Use `acquire`; use from one thread."""

    def __init__(
        self, url: str, run: str, holder: Holder, *, ttl_s: float, timeout_s: float, reconnect_s: float
    ) -> None:
        """Use `acquire`, which also takes the lease."""
        check_run_name(run)
        for name, value in (("ttl_s", ttl_s), ("timeout_s", timeout_s)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, not {value}")
        self.run, self.holder = run, holder
        self._url, self._ttl_s, self._reconnect_s = redact(url), ttl_s, reconnect_s
        self._value, self._ttl_ms = holder.encode(), max(1, int(ttl_s * 1000))
        self._keys = [f"arl:{{{run}}}:trainer", f"arl:{{{run}}}:last-trainer"]
        options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "protocol": 2}
        try:
            # Its pool gives the thread a connection of its own.
            self._redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_keepalive=True, **options)
        except ValueError as error:
            raise bad_url(url, error) from error
        self._hold_script, self._renew_script = map(self._redis.register_script, (_HOLD, _RENEW))
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
        """Take the right to train `run`. Waits up to `ttl_s` for a trainer that does not renew its lease.

        `timeout_s` limits connecting and each answer. A broker that is not there is not waited for; later calls wait
        for it up to `reconnect_s`. `incarnation` names this trainer to people.

        Raises:
            LeaseHeld: another trainer has the run and renews its lease, or lives on this machine.
            StreamError: no broker at `url`, or it refuses.
            ValueError: the run's name or a limit is out of range.
        """
        holder = Holder.of_this_process(incarnation)
        lease = cls(url, run, holder, ttl_s=ttl_s, timeout_s=timeout_s, reconnect_s=reconnect_s)
        try:
            lease._take()
        except BaseException:
            lease._redis.close()
            raise
        lease._thread.start()
        return lease

    def check(self) -> None:
        """Make sure that the run is still ours; a lease that expired, or that the broker forgot, is taken again.

        Raises:
            LeaseLost: another trainer took the run.
            StreamError: the broker stays away for `reconnect_s`, or the lease was released.
        """
        if self._released.is_set():
            raise StreamError(f"{self.holder} released run {self.run}: acquire the lease again")
        value, _ = self._hold(patience_s=self._reconnect_s)
        if value != self._value:
            winner = Holder.decode(value)
            raise LeaseLost(f"{self.holder} lost run {self.run} to {winner}; it stops before it writes")

    def release(self) -> None:
        """Let the next trainer in at once. Never raises: a lease that cannot be released expires."""
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

    def _take(self) -> None:
        deadline = time.monotonic() + self._ttl_s + _MARGIN_S
        dead, before, patience_s = b"", (b"", 0), 0.0
        while True:
            value, left_ms = self._hold(patience_s=patience_s, replace=dead, new=True)
            if value == self._value:
                return
            holder = Holder.decode(value)
            if holder.is_here():
                if holder.is_alive():
                    raise self._held_by(holder)
                dead = value
                continue
            renewed = before[0] == value and left_ms > before[1]
            changed = before[0] not in (b"", value)
            if renewed or changed or time.monotonic() > deadline:
                raise self._held_by(holder)
            before, patience_s = (value, left_ms), self._reconnect_s
            time.sleep(min(_LONGEST_POLL_S, self._ttl_s * _POLL_SHARE))

    def _held_by(self, holder: Holder) -> LeaseHeld:
        hint = "stop it, or wait for it, or use another run name"
        return LeaseHeld(f"run {self.run} is being trained by {holder}: {hint}")

    def _hold(self, *, patience_s: float, replace: bytes = b"", new: bool = False) -> tuple[bytes, int]:
        """Take or keep the lease if we may. The holder's value, and how many ms its lease still lasts."""
        args: list[bytes | int] = [self._value, self._ttl_ms, _LAST_TRAINER_AGE_S * 1000, replace, int(new)]
        started, pause = time.monotonic(), _FIRST_PAUSE_S
        while True:
            try:
                value, left_ms = self._hold_script(keys=self._keys, args=args)
                return bytes(value), int(left_ms)
            except (errors.RedisError, OSError) as error:
                loading = isinstance(error, errors.BusyLoadingError)
                limit = self._reconnect_s if loading else patience_s
                if not is_network(error) or time.monotonic() - started + pause > limit:
                    raise explain(self._url, error) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _renew_until_released(self) -> None:
        pause_s = self._ttl_s / 3
        args: list[bytes | int] = [self._value, self._ttl_ms, _LAST_TRAINER_AGE_S * 1000]
        while not self._released.wait(pause_s):
            try:
                self._renew_script(keys=self._keys, args=args)
                pause_s = self._ttl_s / 3
            except Exception:  # `check` tells the trainer
                pause_s = min(_LONGEST_PAUSE_S, self._ttl_s / 3)


def _machine() -> str:
    """The running kernel and the pid namespace; '' where the system tells neither."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return ":".join(parts)


def _stat(pid: int) -> tuple[str, int]:
    """State letter and start time (clock ticks since boot) of a process; ('', 0) where the system does not tell."""
    try:
        # The command's name, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return "", 0
