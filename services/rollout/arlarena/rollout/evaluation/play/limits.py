"""Limits of the requests to a model: concurrency, requests and tokens per minute, and waits after failures.

If the vendor requests a wait (status 429 or `Retry-After`), all requests wait. After other failures, such as a lost
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

# Maximum number of doublings of a pause. The pause reaches `longest_pause_s` after fewer doublings.
DOUBLINGS = 30
# A bucket's level between -ROUNDING and 0 counts as 0. The unit is requests or tokens.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Limits of the requests of one evaluation.

    Attributes:
        concurrency: maximum number of concurrent requests.
        requests_per_minute: maximum number of requests per minute; None: no limit.
        tokens_per_minute: maximum number of tokens of messages and replies per minute; None: no limit.
        first_pause_s: pause before the first retry, in seconds. Each further pause is twice as long.
        longest_pause_s: maximum pause before a retry, in seconds.
        longest_retry_after_s: maximum wait in seconds that a vendor's `Retry-After` can cause.
        give_up_after_s: a request ends its attempt if its retries would take longer than this number of seconds.
    """

    concurrency: int = 16
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    longest_retry_after_s: float = 600.0
    give_up_after_s: float = 3600.0

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ValueError: a limit is not above 0.
        """
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")

    def pause(self, failures: int) -> float:
        """Return the pause in seconds after a number of failures in a row. `failures`: at least 1."""
        return next(islice(pauses(self.first_pause_s, self.longest_pause_s), min(failures, DOUBLINGS) - 1, None))


class MinuteBucket:
    """A rate limit as a token bucket. The limit is a number of requests or tokens per minute.

    A request may be sent if the bucket's level is not negative. The request then lowers the level by its amount: 1, or
    its number of tokens. The level rises by `per_minute` / 60 per second, and its maximum is `per_minute` / 60. In any
    60 s, the sum of the amounts is therefore at most `per_minute` * 61 / 60, plus the amount of one request.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._rate, self._clock = per_minute / 60, clock
        self._level, self._at = 0.0, clock()

    def delay(self) -> float:
        """Return the time in seconds until a request may be sent."""
        now = self._clock()
        self._level = min(self._rate, self._level + (now - self._at) * self._rate)
        self._at = now
        # After the exact delay, the level may be slightly below 0 because of rounding errors.
        return -self._level / self._rate if self._level < -ROUNDING else 0.0

    def take(self, amount: float) -> None:
        """Lower the level by `amount`. If an estimate was too high, a negative amount raises the level."""
        self._level -= amount


class RequestGate:
    """Delays requests until the limits allow them. Requests pass in the order of their arrival."""

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
        """Wait until a request may be sent. The permit ends when the context ends.

        `tokens`: estimated number of tokens of the request and its reply.
        """
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
        """Wait for `seconds`, or until `wake` is called."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._awake.wait(), seconds)

    def wake(self) -> None:
        """End all waits, because the evaluation stops."""
        self._awake.set()

    def succeeded(self, sent_at: float, estimated: int, tokens: int | None) -> None:
        """Record that a request succeeded. Correct the token limit: replace the estimate by the vendor's number.

        Args:
            sent_at: time of the clock when the request was sent.
            estimated: the number of tokens that `permit` got.
            tokens: the vendor's number of tokens; None: unknown.
        """
        if self._tokens is not None and tokens is not None:
            self._tokens.take(tokens - estimated)
        if sent_at >= self._paused_until:
            self._pauses_in_a_row = 0

    def failed(self, error: Retryable, sent_at: float, failures: int) -> float:
        """Record that a request failed. Return the seconds that the request must wait before it asks for a new permit.

        Args:
            error: the failure.
            sent_at: time of the clock when the request was sent.
            failures: number of the request's failures so far, at least 1.
        """
        asked = min(error.retry_after_s or 0.0, self.limits.longest_retry_after_s)
        if error.rate_limited and sent_at >= self._paused_until:
            # If the request was sent before the last pause ended, the failure belongs to this pause and adds no pause.
            self._pauses_in_a_row += 1
            self._pause_all(max(asked, self.limits.pause(self._pauses_in_a_row) if not asked else 0.0))
        elif asked:
            self._pause_all(asked)
        if asked or error.rate_limited:
            return 0.0
        # The random factor spreads the retries of requests that failed at the same time.
        return self.limits.pause(failures) * self._jitter.uniform(0.5, 1.0)

    def _pause_all(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _delay(self) -> float:
        delays = [bucket.delay() for bucket in (self._requests, self._tokens) if bucket is not None]
        return max([self._paused_until - self._clock(), *delays])
