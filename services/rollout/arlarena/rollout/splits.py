"""Checks the environment before a command plays episodes, and chooses the tasks of demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from arlarena.client.environments import EnvironmentClient
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import Info, Split
from arlarena.proto.shared_settings import EnvironmentKeys
from arlarena.proto.task_order import TaskOrder
from arlarena.proto.telemetry import Logger
from arlarena.proto.text.wording import counted


async def check_environment(environments: EnvironmentClient, wanted: EnvironmentKeys, log: Logger) -> Info:
    """Check that the server serves the configured environment. Returns the server's description.

    Logs a warning if an option has different values on the server and in the configuration.

    Raises:
        ConfigError: the server serves a different environment.
        ServiceError: the server is unavailable or refuses the request.
    """
    info, url = await environments.info(), environments.url
    if wanted.name not in ("", info.name):
        raise ConfigError(
            f"[environment] name = {wanted.name!r}, but the environment server at {url} serves {info.name!r}: either "
            f"change [environment] name, or give the address of another server with --environment-url"
        )
    if options := differing_options(info, wanted):
        log.warning("other_environment_options", url=url, options=options)
    return info


def differing_options(info: Info, wanted: EnvironmentKeys) -> dict[str, dict[str, Any]]:
    """Returns the options that have different values in the configuration and on the server, with both values.

    The function compares only booleans, numbers and strings, because the server may report lists in another form.
    """
    plain = (bool, int, float, str)
    return {
        name: {"configured": value, "played": info.options[name]}
        for name, value in wanted.options.items()
        if isinstance(value, plain) and isinstance(info.options.get(name), plain) and value != info.options[name]
    }


def drawn_indices(split: Split, first: int, count: int, seed: int) -> Sequence[int]:
    """Returns the indices of at most `count` different tasks of a split.

    The first tasks of a finite split may all be of one kind, so the function shuffles the tasks (`TaskOrder` with
    `seed`). It returns the indices at the positions `first`, `first` + 1, … of this order, up to the end of the split.
    An endless split is not shuffled: the function returns the indices `first`, `first` + 1, …

    Raises:
        ConfigError: `first` is not below the split's size.
    """
    if split.size is None:
        return range(first, first + count)
    if first >= split.size:
        raise ConfigError(
            f"--first {first}: split {split.name!r} has {counted(split.size, 'task')}; give less than {split.size}"
        )
    order = TaskOrder(split.name, split.size, seed)
    return [order.index(position) for position in range(first, min(first + count, split.size))]
