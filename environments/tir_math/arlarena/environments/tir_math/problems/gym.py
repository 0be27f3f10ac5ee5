"""The generators of reasoning-gym, without what it brings along.

`import reasoning_gym` imports every puzzle that it has, and with them a SAT solver that has to be compiled, matplotlib
and a dozen others. What is used here needs none of that. So the package is installed alone (`pip install --no-deps`),
and its packages are stood in for by empty ones with the same folders: their modules are found, and their `__init__.py`
do not run. Where somebody has imported the whole of it before, that is used.
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
# What generators import from the package of curricula, and where it is really from.
_COACHING = {
    "BaseCurriculum": "base_curriculum",
    "RangeAttributeDefinition": "attributes",
    "ScalarAttributeDefinition": "attributes",
}
_lock = threading.Lock()


def _folder() -> Path:
    try:
        found = util.find_spec(PACKAGE)
    except ValueError:  # a stand-in, which has no spec
        found = None
    if found is None or not found.submodule_search_locations:
        raise ProblemsError(f"reasoning-gym is not installed: {INSTALL}")
    return Path(next(iter(found.submodule_search_locations)))


def _stand_in(name: str, folder: Path) -> ModuleType:
    """An empty package over a folder."""
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
        _stand_in(PACKAGE, folder)
        coaching = _stand_in(f"{PACKAGE}.coaching", folder / "coaching")
        for name, module in _COACHING.items():
            setattr(coaching, name, getattr(import_module(f"{PACKAGE}.coaching.{module}"), name))
    if (name := f"{PACKAGE}.{area}") not in sys.modules:
        _stand_in(name, Path(sys.modules[PACKAGE].__path__[0]) / area)


def generator(module: str, stem: str) -> tuple[type[Any], type[Any]]:
    """The data set class of a module, and the dataclass that configures it: `stem` is what their names begin with.

    >>> generator("algorithmic.count_primes", "CountPrimes")[0].__name__
    'CountPrimesDataset'

    Raises:
        ProblemsError: reasoning-gym is not installed, or is another one.
    """
    with _lock:
        _prepare(module.partition(".")[0])
        try:
            found = import_module(f"{PACKAGE}.{module}")
            return getattr(found, f"{stem}Dataset"), getattr(found, f"{stem}Config")
        except (ImportError, AttributeError) as error:
            raise ProblemsError(f"reasoning-gym has no {module} as known here ({error}): {INSTALL}") from error


def installed_version() -> str:
    """The version that makes the problems."""
    try:
        return metadata.version("reasoning-gym")
    except metadata.PackageNotFoundError:
        return "unknown"
