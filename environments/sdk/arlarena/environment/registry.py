"""Finds environments by name: installed ones by their entry points, others by the name of their module.

A distribution offers an environment in its pyproject.toml, as a function `load(where, options)` that makes its factory:

    [project.entry-points."arlarena.environments"]
    sokoban = "arlarena.environments.sokoban.environment:load"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

import msgspec

from arlarena.environment.protocols import EnvironmentFactory
from arlarena.proto.config import ConfigError
from arlarena.proto.env import Info

GROUP = "arlarena.environments"

Loader = Callable[[str, Mapping[str, Any]], EnvironmentFactory]


def installed() -> dict[str, EntryPoint]:
    """The entry points of the installed environments, by name in alphabetical order."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def load(where: str, name: str, options: Mapping[str, Any]) -> EnvironmentFactory:
    """Make the factory of an environment.

    Args:
        where: Begins the message of an error, such as "FILE: [environment]". Errors in the options begin with the same
            text, in which the table is `[environment.options]`.
        name: The name of an installed environment, or of a module that has a function `load(where, options)`.
        options: The environment's own options.

    Raises:
        ConfigError: The name is unknown, the module cannot be imported, or an option is invalid.
    """
    table = f"{where[:-1]}.options]" if where.endswith("]") else f"{where} [options]"
    return _loader(f"{where} name = {name!r}", name)(table, options)


def info_of(factory: EnvironmentFactory, name: str) -> Info:
    """The environment's description under the name by which it was loaded, or its own where `name` is "".

    The two differ where a module was named. Clients compare the name of their configuration with it.
    """
    return msgspec.structs.replace(factory.info, name=name) if name else factory.info


def _loader(where: str, name: str) -> Loader:
    known = installed()
    try:
        found = known[name].load() if name in known else _from_module(name)
    except ImportError as error:
        raise ConfigError(f"{where}: the environment cannot be imported: {error}") from error
    if found is None:
        problem = "unknown environment" if name else "no environment is named"
        raise ConfigError(
            f"{where}: {problem}; installed: {', '.join(known) or 'none'}; or name a module that has a function "
            "load(where, options)"
        )
    return cast(Loader, found)


def _from_module(name: str) -> Any:
    """The function `load` of a module, or None if there is no such module or function.

    Raises:
        ImportError: The module exists, and something that it imports does not.
    """
    try:
        return getattr(import_module(name), "load", None)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            return None
        raise
    except (TypeError, ValueError):  # not the name of a module, such as "" or "./file"
        return None
