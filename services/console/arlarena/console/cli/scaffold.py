"""`arlarena init`: writes a new package from a template."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template

from arlarena.proto.config import ConfigError

# Only these characters are permitted, because a package's name is also the name of a Python module, the name of a
# distribution, and the value of a setting.
NAME = re.compile(r"[a-z]([a-z0-9_]{0,38}[a-z0-9])?")
SUFFIX = ".template"
# The entry point group of each kind of package.
GROUPS = {"environment": "arlarena.environments", "objective": "arlarena.objectives"}


def init(kind: str, name: str, into: Path) -> Path:
    """Write the package `name` into a new folder in `into`. Returns the new folder.

    Args:
        kind: a key of `GROUPS`.
        name: the name of the package, of its module, and of the environment or recipe.
        into: the parent folder. It is created if it is missing.

    Raises:
        ConfigError: the name cannot be used, the folder already exists, or a file cannot be written.
    """
    folder = into / name
    _check_name(kind, name, folder)
    texts = {path: Template(text).substitute(name=name) for path, text in _templates(kind)}
    try:
        folder.mkdir(parents=True)
        for path, text in texts.items():
            (folder / path.replace("NAME", name)).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}; choose another folder with --into") from error
    return folder


def _check_name(kind: str, name: str, folder: Path) -> None:
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(
            f"NAME {name!r} must be a Python identifier of at most 40 lower-case letters, digits and underscores, "
            f"with a letter at the beginning and a letter or digit at the end, such as my_{kind}"
        )
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder} exists already: choose another name, or another folder with --into")
    taken = {point.name for point in entry_points(group=GROUPS[kind])}
    if name in taken or find_spec(name) is not None:
        owner = f"an installed {kind}" if name in taken else "an installed Python module"
        raise ConfigError(f"NAME {name!r} is the name of {owner}: choose another name")


def _templates(kind: str) -> Iterator[tuple[str, str]]:
    """Yields (file name, text) of each template."""
    for file in files("arlarena.console").joinpath("templates", kind).iterdir():
        if file.name.endswith(SUFFIX):
            yield file.name.removesuffix(SUFFIX), file.read_text(encoding="utf-8")
