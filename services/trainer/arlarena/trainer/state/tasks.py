"""Determines the task order of a run from the size of the split, and compares it with the order in the checkpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import ServiceError, Unavailable
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import Info
from arlarena.proto.served import ServedEnvironment
from arlarena.proto.splits import find_split
from arlarena.proto.task_order import TaskOrder
from arlarena.proto.telemetry import Logger
from arlarena.trainer.settings import TrainerSettings, environment_token
from arlarena.trainer.state.checkpoint import CheckpointError, TrainerState

# Pause between two requests to a server that does not answer, in seconds.
_PAUSE_S = 0.5


async def draw_order(
    url: str | None,
    environment: str,
    settings: TrainerSettings,
    seed: int,
    state: TrainerState,
    log: Logger,
    guard: Callable[[], None] = lambda: None,
) -> TaskOrder:
    """Return the task order of the run, and store the order and the description of the environment in `state`.

    `url`: the environment server, which reports the size of the split; None: the split counts as endless. `guard` is
    called before each request to the server. It raises an exception if the trainer must stop.

    Raises:
        ConfigError: the server has another environment, or no split `task_split`.
        CheckpointError: `state` comes from a checkpoint with another environment, group size or task order.
        ServiceError: the server does not answer within `service_wait_s`.
    """
    size = None
    if url is not None:
        info = await environment_info(url, environment, settings.service_wait_s, log, guard)
        size = find_split(info, settings.task_split, "[trainer] task_split").size
        state.record_served(ServedEnvironment.of(info))
    order = TaskOrder(settings.task_split, size, seed, settings.train_index_start)
    drawn = {"environment": environment, "group_size": settings.group_size} | asdict(order)
    if state.tasks and state.tasks != drawn:
        raise CheckpointError(
            f"the task order of the checkpoint is {state.tasks}, but the settings give {drawn}: either resume the run "
            f"with the data, split, group_size and seed of the checkpoint, or start a new run"
        )
    state.tasks = drawn
    log.info("task_order", **drawn)
    return order


async def split_size(
    url: str | None, environment: str, settings: TrainerSettings, log: Logger, guard: Callable[[], None]
) -> int | None:
    """Return the number of tasks of `task_split`; None if the split is endless or `url` is None.

    Raises:
        ConfigError: the server has another environment, or no split `task_split`.
        ServiceError: the server does not answer within `service_wait_s`.
    """
    if url is None:
        return None
    info = await environment_info(url, environment, settings.service_wait_s, log, guard)
    return find_split(info, settings.task_split, "[trainer] task_split").size


async def environment_info(
    url: str, environment: str | None, wait_s: float, log: Logger, guard: Callable[[], None] = lambda: None
) -> Info:
    """Return the description of the server's environment. Waits up to `wait_s` seconds for the server.

    Raises:
        ConfigError: `environment` is given, and the server has another environment.
        ServiceError: the server does not answer in time, or refuses the request.
    """
    info = await _info(url, wait_s, log, guard)
    if environment not in (None, info.name):
        raise ConfigError(
            f"[environment] name = {environment!r}, but the server at {url} plays {info.name}; "
            f"give the --environment-url of a server that plays {environment}"
        )
    return info


async def _info(url: str, wait_s: float, log: Logger, guard: Callable[[], None]) -> Info:
    deadline = time.monotonic() + wait_s
    async with EnvironmentClient(url, token=environment_token()) as environments:
        while True:
            guard()
            try:
                return await environments.info()
            except Unavailable as error:
                if time.monotonic() > deadline:
                    failure = "still fails after" if error.answered else "did not answer within"
                    hint = "" if error.answered else "; is it running?"
                    raise ServiceError(
                        f"the environment server at {url} {failure} {wait_s:.0f} s: {error}{hint}"
                    ) from error
                log.warning("environment_unavailable", url=url, reason=str(error))
            await asyncio.sleep(_PAUSE_S)
