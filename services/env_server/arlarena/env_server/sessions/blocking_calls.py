"""Runs long work of an environment in the pool of threads. The time and the number of waiting calls are limited.
Failures become API errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from arlarena.env_server import errors
from arlarena.env_server.errors import ApiError
from arlarena.env_server.sessions.thread_pool import WorkPool
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.environment.protocols import EnvironmentFailure

T = TypeVar("T")


async def carry_out(
    pool: WorkPool, settings: EnvironmentSettings, what: str, limit_s: float, work: Callable[[], T]
) -> T:
    """Run `work` in the pool and return its result. `what`: the name of the work in error messages.

    Raises:
        ApiError: 504 after `limit_s` seconds. The result of the thread is then dropped. 429 while too many calls wait,
            429 or 503 if a dependency of the environment is busy or fails.
    """
    if pool.waiting >= settings.max_waiting:
        message = f"{pool.waiting} calls wait already: come back later, or raise [environment] max_waiting"
        raise errors.busy(message, settings.retry_after_s)
    try:
        async with asyncio.timeout(limit_s):
            return await pool.submit(work)
    except TimeoutError as error:
        raise errors.timed_out(what, limit_s) from error
    except EnvironmentFailure as error:
        raise refusal(what, error) from error


def refusal(what: str, failure: EnvironmentFailure) -> ApiError:
    """Returns the error for a failed dependency of the environment: 429 if the dependency is busy, 503 otherwise."""
    refuse = errors.busy if failure.busy else errors.failed
    return refuse(f"{what} failed: {failure}", failure.retry_after_s)
