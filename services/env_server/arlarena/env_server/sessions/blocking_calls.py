"""An environment's long work in the pool of threads: bounded in time and number, failures as the API's errors."""

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
    """`work` in the pool; `what` names it in errors.

    Raises:
        ApiError: 504 after `limit_s` seconds; the thread's result is then dropped. 429 while too many wait, 503 if a
            dependency of the environment fails.
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
    """The reply to a failure of what the environment stands on."""
    refuse = errors.busy if failure.busy else errors.failed
    return refuse(f"{what} failed: {failure}", failure.retry_after_s)
