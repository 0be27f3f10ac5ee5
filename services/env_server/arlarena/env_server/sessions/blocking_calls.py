"""Runs long work of an environment in a pool of threads. The duration of the work and the number of calls that wait for
a thread are limited. Failures of the environment become API errors.
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


async def run_in_pool(
    pool: WorkPool, settings: EnvironmentSettings, operation: str, limit_s: float, work: Callable[[], T]
) -> T:
    """Run `work` in a thread of the pool and return its result. `operation`: the name of the work in error messages.

    Raises:
        ApiError: 504 after `limit_s` seconds; the thread continues, and its result is dropped. 429 if `max_waiting`
            calls already wait for a thread, or if a dependency of the environment is busy. 503 if a dependency fails.
    """
    if pool.waiting >= settings.max_waiting:
        message = f"{pool.waiting} calls already wait for a thread: retry later, or raise [environment] max_waiting"
        raise errors.busy(message, settings.retry_after_s)
    try:
        async with asyncio.timeout(limit_s):
            return await pool.submit(work)
    except TimeoutError as error:
        raise errors.timed_out(operation, limit_s) from error
    except EnvironmentFailure as error:
        raise dependency_error(operation, error) from error


def dependency_error(operation: str, failure: EnvironmentFailure) -> ApiError:
    """Returns the API error for a failed dependency of the environment: 429 if it is busy, 503 otherwise."""
    error_of = errors.busy if failure.busy else errors.failed
    return error_of(f"{operation} failed: {failure}", failure.retry_after_s)
