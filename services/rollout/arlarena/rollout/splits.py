"""Checks of the environment and its splits before a command plays, and the order of tasks."""

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
    """The server's description, checked against the environment that the configuration names. Options that differ
    from the configured values are logged as a warning.

    Raises:
        ConfigError: the server plays another environment.
        ServiceError: see `EnvironmentClient.info`.
    """
    info, url = await environments.info(), environments.url
    if wanted.name not in ("", info.name):
        raise ConfigError(
            f"[environment] name = {wanted.name!r}, but the server at {url} plays {info.name}; give --environment-url"
        )
    if options := differing_options(info, wanted):
        log.warning("other_environment_options", url=url, options=options)
    return info


def differing_options(info: Info, wanted: EnvironmentKeys) -> dict[str, dict[str, Any]]:
    """Returns the options whose value on the server differs from the configuration, with both values.

    Only scalar values are compared; the server may report others in another form.
    """
    plain = (bool, int, float, str)
    return {
        name: {"configured": value, "played": info.options[name]}
        for name, value in wanted.options.items()
        if isinstance(value, plain) and isinstance(info.options.get(name), plain) and value != info.options[name]
    }


def drawn_indices(split: Split, first: int, count: int, seed: int) -> Sequence[int]:
    """Returns the indices of `count` distinct tasks of a split.

    A split of fixed size is read in the seed's permutation (see `TaskOrder`) from position `first`, because the first
    tasks of a file may all be of one kind. The result is shorter if the split ends. An unbounded split is read by
    index from `first`.

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
