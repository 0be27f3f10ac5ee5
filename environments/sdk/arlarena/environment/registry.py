"""Finds environments by name: installed ones by their entry points, others by the name of their module.

A distribution offers an environment in its pyproject.toml, as a function `load(where, options)` that makes its factory:

    [project.entry-points."arlarena.environments"]
    sokoban = "arlarena.environments.sokoban.environment:load"
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

import msgspec

from arlarena.environment.protocols import EnvironmentFactory
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import Info
from arlarena.proto.text.names import suggestion

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
        ConfigError: The name is unknown, the module cannot be imported, its `load` takes other arguments, fails or
            returns no environment, or an option is invalid.
    """
    table = f"{where[:-1]}.options]" if where.endswith("]") else f"{where} [options]"
    place = f"{where} name = {name!r}"
    with redirect_stdout(sys.stderr):  # callers print JSON on stdout; a module may print while it is imported
        loader = _loader(place, name)
        try:
            factory = loader(table, options)
            problem = _problem_of(factory)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"{place}: its load(where, options) failed: {_described(error)}") from error
    if problem:
        raise ConfigError(f"{place}: its load(where, options) must return an environment, and {problem}")
    return factory


def info_of(factory: EnvironmentFactory, name: str) -> Info:
    """The environment's description under the name by which it was loaded, or its own where `name` is "".

    The two differ where a module was named. Clients compare the name of their configuration with it.
    """
    return msgspec.structs.replace(factory.info, name=name) if name else factory.info


def _loader(where: str, name: str) -> Loader:
    known = installed()
    try:
        found = known[name].load() if name in known else _from_module(name)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{where}: the environment cannot be imported: {_described(error)}{_fix(known.get(name))}"
        ) from error
    if found is None:
        problem = "unknown environment" if name else "no environment is named"
        problem = "the module has no function load" if name in sys.modules else problem
        hint = f"; {close}" if name and (close := suggestion(name, known)) else ""
        raise ConfigError(
            f"{where}: {problem}{hint}; installed: {', '.join(known) or 'none'}; or name a module that has a function "
            "load(where, options), as in my_package.my_module"
        )
    if not _takes_two(found):
        raise ConfigError(
            f"{where}: its `load` does not take (where, options), so it is no environment: an environment has "
            "load(where: str, options: Mapping[str, Any]) -> EnvironmentFactory; installed: "
            f"{', '.join(known) or 'none'}"
        )
    return cast(Loader, found)


def _from_module(name: str) -> Any:
    """The function `load` of a module, or None if there is no such module or function. Errors as of the import."""
    if not all(part.isidentifier() for part in name.split(".")):
        return None  # such as "", "./file" or "tic-tac-toe"
    try:
        return getattr(import_module(name), "load", None)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            return None
        raise


def _fix(point: EntryPoint | None) -> str:
    """The end of an error about an entry point that does not lead to a function."""
    if point is None:
        return ""
    distribution = f" of {point.dist.name}" if point.dist is not None else ""
    return f"; the entry point{distribution} names {point.value}: install that distribution again"


def _takes_two(loader: Any) -> bool:
    """Whether `loader` can be called with two arguments."""
    if not callable(loader):
        return False
    try:
        inspect.signature(loader).bind("", {})
    except TypeError:
        return False
    except ValueError:  # a function in C that does not tell
        return True
    return True


def _problem_of(factory: Any) -> str:
    """Why `factory` is no environment; "" if it is one. Errors as of its `info`."""
    if isinstance(factory, type):
        return f"it returns the class {factory.__name__}: return an instance of it"
    lacking = [name for name in ("info", "blocking", "task", "start") if not _has(factory, name)]
    if lacking:
        return f"it returns {type(factory).__name__}, which lacks {', '.join(lacking)}"
    if not isinstance(factory.info, Info):
        kind = type(factory.info).__name__
        return f"the `info` of {type(factory).__name__} is {kind}, not arlarena.proto.env_api.Info"
    return ""


def _has(factory: Any, name: str) -> bool:
    """Whether there is an attribute, without the evaluation of a property."""
    return hasattr(type(factory), name) or hasattr(factory, name)


def _described(error: BaseException) -> str:
    """`NameError: name 'x' is not defined (my_module.py, line 3)`: the exception and the line that raised it."""
    message = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, ImportError | SyntaxError) or not frames:
        return message
    return f"{message} ({frames[-1].filename}, line {frames[-1].lineno})"
