"""Which environment and which tasks of its splits a command plays; checked before anything is played."""

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


async def played_here(environments: EnvironmentClient, wanted: EnvironmentKeys, log: Logger) -> Info:
    """What the server plays, which has to be the environment that the configuration names. Where options are others
    than the configured ones, a warning says which.

    Raises:
        ConfigError: it plays another environment.
        ServiceError: see `EnvironmentClient.info`.
    """
    info, url = await environments.info(), environments.url
    if wanted.name not in ("", info.name):
        raise ConfigError(
            f"[environment] name = {wanted.name!r}, but the server at {url} plays {info.name}; give --environment-url"
        )
    if options := other_options(info, wanted):
        log.warning("other_environment_options", url=url, options=options)
    return info


def other_options(info: Info, wanted: EnvironmentKeys) -> dict[str, dict[str, Any]]:
    """Options of the configuration that the server has at another value: what is configured and what is played.

    Only plain values that the server shows are compared: it may write others in a form of its own.
    """
    plain = (bool, int, float, str)
    return {
        name: {"configured": value, "played": info.options[name]}
        for name, value in wanted.options.items()
        if isinstance(value, plain) and isinstance(info.options.get(name), plain) and value != info.options[name]
    }


def drawn_indices(split: Split, first: int, count: int, seed: int) -> Sequence[int]:
    """Indices of `count` tasks of a split, each task once.

    A split with an end is drawn in the seed's permutation (see `TaskOrder`), from position `first` to its end at most:
    a file's first tasks may all be of one kind. A split without an end is drawn by index, from index `first`.

    Raises:
        ConfigError: `first` is beyond the end.
    """
    if split.size is None:
        return range(first, first + count)
    if first >= split.size:
        raise ConfigError(
            f"--first {first}: split {split.name!r} has {counted(split.size, 'task')}; give less than {split.size}"
        )
    order = TaskOrder(split.name, split.size, seed)
    return [order.index(position) for position in range(first, min(first + count, split.size))]
