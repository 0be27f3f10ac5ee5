"""Registers the named choices of every dimension, and loads plugins. A plugin is a module that adds choices.

A plugin registers its choices when it is imported (docs/how-to/write-an-objective.md):

    @register_clip("spo", SpoConfig)
    def spo(terms: Terms, config: SpoConfig) -> Tensor: ...

    register_recipe(Recipe(name="spo", clip="spo"))

A plugin is loaded if it is named by `--plugin my_package.spo`, by `[trainer] plugins`, or by an entry point of an
installed package:

    [project.entry-points."arlarena.objectives"]
    spo = "my_package.spo"
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

GROUP = "arlarena.objectives"

Entry = TypeVar("Entry")


class RecipeError(ValueError):
    """A recipe is invalid, a part of a recipe can never have an effect, or a plugin cannot be loaded."""


def nearest(given: object, names: Iterable[str]) -> str:
    """Return the end of an error message about the unknown name `given`.

    The text lists the `names` that are similar to `given`. If there are none, the text lists all `names`.
    """
    names = list(names)
    close = difflib.get_close_matches(str(given), names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"choose one of {', '.join(names)}"


class Registry(Mapping[str, Entry]):
    """Choices by name, in the order of their registration: built-in choices, then choices of plugins."""

    def __init__(self, kind: str) -> None:
        """Start with no choices. `kind`: the word for a choice in error messages, such as "clip"."""
        self._kind = kind
        self._entries: dict[str, Entry] = {}
        _REGISTRIES.append(self)

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, name: str, entry: Entry) -> None:
        """Add a choice.

        Raises:
            RecipeError: the name is not a Python identifier, or is registered already.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise RecipeError(f"{self._kind} {name!r}: a name may have only letters, digits and underscores")
        if name in self._entries:
            raise RecipeError(f"{self._kind} {name!r} is registered already; choose another name")
        self._entries[name] = entry

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Return a decorator that adds a function as the choice `name`. The decorator raises RecipeError like `add`."""

        def decorate(entry: Entry) -> Entry:
            self.add(name, entry)
            return entry

        return decorate

    def snapshot(self) -> Callable[[], None]:
        """Return a function that resets the registry to its current choices."""
        before = dict(self._entries)

        def restore() -> None:
            self._entries = before

        return restore


_REGISTRIES: list[Registry[Any]] = []


def load_plugins(modules: Iterable[str] = ()) -> None:
    """Import the plugins of all installed distributions, then `modules`. A loaded plugin is not imported again.

    Raises:
        RecipeError: a plugin does not exist, fails on import, or registers an invalid choice (for example, a name that
            is taken). The message is one line. The choices of the failed plugin are removed.
    """
    installed = {point.module: point for point in sorted(entry_points(group=GROUP))}
    for module, point in installed.items():
        owner = f" of {point.dist.name}" if point.dist else ""
        _load(module, f"plugin {point.name!r}{owner}", ())
    for module in modules:
        _load(module, f"plugin {module!r}", installed)


def _load(module: str, plugin: str, installed: Iterable[str]) -> None:
    restore = [registry.snapshot() for registry in _REGISTRIES]
    try:
        import_module(module)
        return
    except RecipeError as error:
        problem, cause = str(error), error
    except (Exception, SystemExit) as error:
        problem, cause = _import_problem(module, error, installed), error  # type: ignore[assignment]
    for each in restore:
        each()
    raise RecipeError(f"{plugin}: {problem}") from cause


def _import_problem(module: str, error: BaseException, installed: Iterable[str]) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        close = difflib.get_close_matches(module, list(installed), n=1)
        near = f"; did you mean {close[0]!r}?" if close else ""
        return f"there is no module {error.name!r}: install its package, or put its folder on PYTHONPATH{near}"
    lines = str(error).splitlines() or ["no message"]
    return f"it cannot be imported: {type(error).__name__}: {lines[0]}"
