"""Limits of the requests to a model: concurrency, requests and tokens per minute, and waits after failures.

A wait that the vendor asks for (429, `Retry-After`) applies to all requests. After another failure, such as a lost
connection, only the failed request waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import islice

from arlarena.proto.backoff import pauses
from arlarena.rollout.evaluation.models.errors import Retryable

# A pause doubles at most this often, because `longest_pause_s` is reached long before.
DOUBLINGS = 30
# A level above -ROUNDING counts as not negative, in requests or tokens.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Limits of the requests of one evaluation.

    Attributes:
        concurrency: requests at the same time.
        requests_per_minute, tokens_per_minute: None: no limit. Tokens are those of messages and replies together.
        first_pause_s, longest_pause_s: pauses between retries in seconds; they double.
        longest_retry_after_s: a longer `Retry-After` is shortened to this time.
        give_up_after_s: a request that fails for so long ends its attempt.
    """

    concurrency: int = 16
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    longest_retry_after_s: float = 600.0
    give_up_after_s: float = 3600.0

    def __post_init__(self) -> None:
        """Validate the limits.

        Raises:
            ValueError: a limit is not above 0.
        """
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")

    def pause(self, failures: int) -> float:
        """Return the pause in seconds after this number of failures in a row (from 1)."""
        return next(islice(pauses(self.first_pause_s, self.longest_pause_s), min(failures, DOUBLINGS) - 1, None))


class MinuteBucket:
    """A rate limit as a bucket with debts: a request may go if the level is not negative, and then lowers it.

    The level rises by `per_minute` / 60 each second, up to one second's worth. So the amounts of any 60 s sum to at
    most 61 / 60 of `per_minute`, plus one request.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._rate, self._clock = per_minute / 60, clock
        self._level, self._at = 0.0, clock()

    def delay(self) -> float:
        """Return the time in seconds until the level is not negative."""
        now = self._clock()
        self._level = min(self._rate, self._level + (now - self._at) * self._rate)
        self._at = now
        # After a wait of the exact delay, rounding may leave the level a little below 0.
        return -self._level / self._rate if self._level < -ROUNDING else 0.0

    def take(self, amount: float) -> None:
        """Lower the level. A negative amount returns tokens that were taken in excess."""
        self._level -= amount


class RequestGate:
    """Lets requests pass as the limits allow, in the order in which they came."""

    def __init__(self, limits: ModelLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self._clock = limits, clock
        self._permits = asyncio.Semaphore(limits.concurrency)
        self._turn = asyncio.Lock()
        self._awake = asyncio.Event()
        per_minute = (limits.requests_per_minute, limits.tokens_per_minute)
        self._requests, self._tokens = (MinuteBucket(limit, clock) if limit else None for limit in per_minute)
        self._jitter = random.Random()
        self._paused_until, self._pauses_in_a_row = 0.0, 0

    @contextlib.asynccontextmanager
    async def permit(self, tokens: int) -> AsyncIterator[None]:
        """Wait until a request with about this number of tokens may be sent. The permit ends with the context."""
        async with self._permits:
            if self._requests or self._tokens or self._paused_until:
                async with self._turn:
                    while (delay := self._delay()) > 0 and not self._awake.is_set():
                        await self.rest(delay)
                    for bucket, amount in ((self._requests, 1), (self._tokens, tokens)):
                        if bucket is not None:
                            bucket.take(amount)
            yield

    async def rest(self, seconds: float) -> None:
        """Wait. After `wake`, the wait ends at once."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._awake.wait(), seconds)

    def wake(self) -> None:
        """End all waits, because the evaluation stops."""
        self._awake.set()

    def succeeded(self, sent_at: float, estimated: int, tokens: int | None) -> None:
        """Correct the estimate of `permit` by the vendor's count. `sent_at`: the clock when the request was sent."""
        if self._tokens is not None and tokens is not None:
            self._tokens.take(tokens - estimated)
        if sent_at >= self._paused_until:
            self._pauses_in_a_row = 0

    def failed(self, error: Retryable, sent_at: float, failures: int) -> float:
        """Note a failure. Return how long this request waits, in seconds, before it asks for another permit.

        `failures`: the failures of this request in a row, from 1.
        """
        asked = min(error.retry_after_s or 0.0, self.limits.longest_retry_after_s)
        if error.rate_limited and sent_at >= self._paused_until:
            # A request that was sent before the last pause began does not lengthen this pause.
            self._pauses_in_a_row += 1
            self._pause_all(max(asked, self.limits.pause(self._pauses_in_a_row) if not asked else 0.0))
        elif asked:
            self._pause_all(asked)
        if asked or error.rate_limited:
            return 0.0
        # A random part of the pause keeps requests that failed together from returning together.
        return self.limits.pause(failures) * self._jitter.uniform(0.5, 1.0)

    def _pause_all(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _delay(self) -> float:
        delays = [bucket.delay() for bucket in (self._requests, self._tokens) if bucket is not None]
        return max([self._paused_until - self._clock(), *delays])
