"""Finds environments by name. A name refers to an entry point of an installed distribution, or to a module.

A distribution declares its environment as an entry point in pyproject.toml. The entry point is a function
`load(where, options)` that returns the environment's factory:

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
    """Return {name: entry point} of the installed environments, in alphabetical order."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def load(where: str, name: str, options: Mapping[str, Any]) -> EnvironmentFactory:
    """Load the factory of an environment.

    Args:
        where: The start of error messages, such as "FILE: [environment]". Messages about an option then begin with
            "FILE: [environment.options]".
        name: The name of an installed environment, or of a module with a function `load(where, options)`.
        options: The options of the environment.

    Raises:
        ConfigError: The name is unknown, the module cannot be imported, or an option is invalid. This error also
            occurs if the function `load` has other parameters, raises an exception or returns no environment.
    """
    table = f"{where[:-1]}.options]" if where.endswith("]") else f"{where} [options]"
    prefix = f"{where} name = {name!r}"
    with redirect_stdout(sys.stderr):  # an import may print text, but stdout is for the caller's JSON
        loader = _loader(prefix, name)
        try:
            factory = loader(table, options)
            problem = _problem_of(factory)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"{prefix}: the function load(where, options) failed: {_describe(error)}") from error
    if problem:
        raise ConfigError(f"{prefix}: the function load(where, options) must return an environment, but {problem}")
    return factory


def info_of(factory: EnvironmentFactory, name: str) -> Info:
    """Return the environment's `Info`. The argument `name` replaces the field `name`, unless the argument is "".

    `name`: the environment's name in the server's configuration. Clients compare the field `name` with the name in
    their own configuration. The configuration may contain a module's name, which differs from the environment's name.
    """
    return msgspec.structs.replace(factory.info, name=name) if name else factory.info


def _loader(prefix: str, name: str) -> Loader:
    known = installed()
    try:
        found = known[name].load() if name in known else _from_module(name)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{prefix}: the environment cannot be imported: {_describe(error)}{_reinstall_hint(known.get(name))}"
        ) from error
    if found is None:
        problem = "unknown environment" if name else "no environment is named"
        problem = "the module has no function load" if name in sys.modules else problem
        hint = f"; {close}" if name and (close := suggestion(name, known)) else ""
        raise ConfigError(
            f"{prefix}: {problem}{hint}; installed: {', '.join(known) or 'none'}; or give the name of a module with a "
            "function load(where, options), such as my_package.my_module"
        )
    if not _takes_two_arguments(found):
        raise ConfigError(
            f"{prefix}: this module is not an environment, because its `load` does not take (where, options): either "
            "define load(where: str, options: Mapping[str, Any]) -> EnvironmentFactory, or name an installed "
            f"environment ({', '.join(known) or 'none'})"
        )
    return cast(Loader, found)


def _from_module(name: str) -> Any:
    """Return the function `load` of a module. Return None if the module or the function does not exist.

    Exceptions during the import are not caught.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        return None  # not a module's name, such as "", "./file" or "tic-tac-toe"
    try:
        return getattr(import_module(name), "load", None)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            return None
        raise


def _reinstall_hint(point: EntryPoint | None) -> str:
    """Return the end of an error message: install the distribution of the entry point again. Return "" if `point` is
    None, because the environment is then a module without a distribution.
    """
    if point is None:
        return ""
    name = point.dist.name if point.dist is not None else "the distribution of this entry point"
    return f"; the entry point refers to {point.value}: install {name} again"


def _takes_two_arguments(loader: Any) -> bool:
    """Return True if `loader` can be called with two arguments."""
    if not callable(loader):
        return False
    try:
        inspect.signature(loader).bind("", {})
    except TypeError:
        return False
    except ValueError:  # a C function without a signature
        return True
    return True


def _problem_of(factory: Any) -> str:
    """Return the reason why `factory` is not an environment. Return "" if it is an environment. Exceptions of
    `factory.info` are not caught.
    """
    if isinstance(factory, type):
        return f"it returns the class {factory.__name__}: return an instance of the class"
    lacking = [name for name in ("info", "blocking", "task", "start") if not _has(factory, name)]
    if lacking:
        return f"it returns {type(factory).__name__}, which lacks {', '.join(lacking)}"
    if not isinstance(factory.info, Info):
        kind = type(factory.info).__name__
        return f"the `info` of {type(factory).__name__} is {kind}, not arlarena.proto.env_api.Info"
    return ""


def _has(factory: Any, name: str) -> bool:
    """Return True if `factory` has the attribute `name`. Properties are not evaluated."""
    return hasattr(type(factory), name) or hasattr(factory, name)


def _describe(error: BaseException) -> str:
    """Return an exception as text, such as `NameError: name 'x' is not defined (module.py, line 3)`. For an ImportError
    or a SyntaxError, the text is only the type and the message.
    """
    message = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, ImportError | SyntaxError) or not frames:
        return message
    return f"{message} ({frames[-1].filename}, line {frames[-1].lineno})"
