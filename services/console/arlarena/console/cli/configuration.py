"""`arlarena config`: prints every setting of a run's configuration, from the package data `data/configuration.json`.

The console does not import the services. Therefore `scripts/configuration_reference.py` writes the file from the
services' settings. A test checks that the file is up to date.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files

import msgspec

from arlarena.proto.config import ConfigError
from arlarena.proto.text.names import nearest

DATA = "data/configuration.json"
WIDTH = 100


class Setting(msgspec.Struct, frozen=True):
    """One key of a table. All fields except `key` may be empty.

    Attributes:
        key: the name of the key in the table.
        kind: type and range in words.
        default: the default value in TOML syntax.
        unit: the unit of a number.
        description: the effect of the setting.
    """

    key: str
    kind: str
    default: str
    unit: str
    description: str


Tables = Mapping[str, Sequence[Setting]]


def read_tables() -> Tables:
    """Returns all tables by name. An environment's table of options has a name like "environment.options (sokoban)"."""
    data = files("arlarena.console").joinpath(DATA).read_bytes()
    return msgspec.json.decode(data, type=dict[str, list[Setting]])


def describe(tables: Tables, name: str | None) -> str:
    """Returns the output of `arlarena config` for the table `name`, or for all tables if `name` is None.

    Raises:
        ConfigError: there is no table of this name. The message suggests similar names.
    """
    known = {title.partition(" ")[0] for title in tables}
    if name is not None and name.strip("[]") not in known:
        raise ConfigError(f"there is no table [{name.strip('[]')}]; {nearest(name.strip('[]'), known)}")
    chosen = [title for title in tables if name is None or title.partition(" ")[0] == name.strip("[]")]
    return "\n".join(line for title in chosen for line in _lines(title, tables[title]))


def _lines(title: str, settings: Sequence[Setting]) -> Iterator[str]:
    table, _, owner = title.partition(" ")
    yield f"[{table}]" + (f"  # of {owner.strip('()')}" if owner else "")
    for each in settings:
        value = f"{each.key} = {each.default}" if each.default else each.key
        kind = ", ".join(filter(None, (each.kind, each.unit)))
        yield f"  {value}" + (f"  ({kind})" if kind else "")
        yield from textwrap.wrap(each.description, WIDTH, initial_indent="      ", subsequent_indent="      ")
    yield ""
