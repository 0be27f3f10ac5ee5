"""Imports generators of reasoning-gym without its dependencies.

`import reasoning_gym` imports all its puzzles. The puzzles import a SAT solver that must be compiled, matplotlib and a
dozen other packages. The generators that TIR Math uses need none of these packages. So reasoning-gym is installed
without dependencies (`pip install --no-deps`). This module replaces reasoning-gym's Python packages by empty packages
with the same folders. Python then finds the modules in the folders, but does not run the files `__init__.py`. If
reasoning_gym has been imported before, this module does not replace its packages.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module, metadata, util
from pathlib import Path
from types import ModuleType
from typing import Any

from arlarena.environments.tir_math.errors import ProblemsError

PACKAGE, VERSION = "reasoning_gym", "0.1.25"
INSTALL = f"pip install --no-deps reasoning-gym=={VERSION}"
# Names that generators import from `reasoning_gym.coaching`, and the modules that define them.
_COACHING = {
    "BaseCurriculum": "base_curriculum",
    "RangeAttributeDefinition": "attributes",
    "ScalarAttributeDefinition": "attributes",
}
_lock = threading.Lock()


def _folder() -> Path:
    try:
        found = util.find_spec(PACKAGE)
    except ValueError:  # the module in sys.modules is an empty package, which has no spec
        found = None
    if found is None or not found.submodule_search_locations:
        raise ProblemsError(f"reasoning-gym is not installed: {INSTALL}")
    return Path(next(iter(found.submodule_search_locations)))


def _empty_package(name: str, folder: Path) -> ModuleType:
    """Register an empty package. Python finds the modules of this package in `folder`."""
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, package)
    return package


def _prepare(area: str) -> None:
    if PACKAGE not in sys.modules:
        folder = _folder()
        _empty_package(PACKAGE, folder)
        coaching = _empty_package(f"{PACKAGE}.coaching", folder / "coaching")
        for name, module in _COACHING.items():
            setattr(coaching, name, getattr(import_module(f"{PACKAGE}.coaching.{module}"), name))
    if (name := f"{PACKAGE}.{area}") not in sys.modules:
        _empty_package(name, Path(sys.modules[PACKAGE].__path__[0]) / area)


def generator(module: str, stem: str) -> tuple[type[Any], type[Any]]:
    """Return two classes of a module: the generator `<stem>Dataset`, and its configuration `<stem>Config`.

    >>> generator("algorithmic.count_primes", "CountPrimes")[0].__name__
    'CountPrimesDataset'

    Raises:
        ProblemsError: reasoning-gym is not installed, or its version lacks the module or the classes.
    """
    with _lock:
        _prepare(module.partition(".")[0])
        try:
            found = import_module(f"{PACKAGE}.{module}")
            return getattr(found, f"{stem}Dataset"), getattr(found, f"{stem}Config")
        except (ImportError, AttributeError) as error:
            raise ProblemsError(f"this version of reasoning-gym lacks {module} ({error}): {INSTALL}") from error


def installed_version() -> str:
    """Return the installed version of reasoning-gym."""
    try:
        return metadata.version("reasoning-gym")
    except metadata.PackageNotFoundError:
        return "unknown"
