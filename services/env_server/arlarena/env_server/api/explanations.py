"""Error messages for invalid values: msgspec's message plus the valid names.

For an unknown value or field, the known ones (`known: close, reset, state, step; did you mean 'step'?`). For a
missing field or a value in place of an object, the object's fields.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, cast

import msgspec
from msgspec import inspect

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<word>.*?)`(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN_VALUE = re.compile(r"Invalid enum value (?P<word>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_NO_OBJECT = re.compile(
    r"(?:Expected `object(?: \| null)?`, got .*?|Object missing required field .*?)(?: - at `(?P<path>[^`]*)`)?$",
    re.DOTALL,
)
_PLACE = re.compile(r"\.(?P<field>\w+)|\[[^\]]*\]")


def known(word: object, names: Iterable[str]) -> str:
    """The end of an error about an unknown name: all known `names`, and the most similar one."""
    names = list(names)
    close = difflib.get_close_matches(str(word), names, n=1)
    return f"known: {', '.join(names)}" + (f"; did you mean {close[0]!r}?" if close else "")


def explained(error: msgspec.ValidationError, kind: Any) -> str:
    """The message of an error that reading a value as `kind` has raised, with the names or values that are valid."""
    message = str(error)
    if found := _UNKNOWN_FIELD.match(message):
        names = _fields(kind, found["path"])
    elif found := _UNKNOWN_VALUE.match(message):
        parts = _place(kind, found["path"])
        names = [str(value) for part in parts if isinstance(part, inspect.LiteralType) for value in part.values]
    else:
        found = _NO_OBJECT.match(message)
        names = _fields(kind, found["path"]) if found else []
        return f"{message}; its fields: {', '.join(names)}" if names else message
    return f"{message}; {known(found['word'].strip(chr(39)), names)}" if names else message


@cache
def _type_info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _fields(kind: Any, path: str | None) -> list[str]:
    """The fields of the objects that may stand at `path`."""
    return [field.encode_name for part in _place(kind, path) for field in getattr(part, "fields", ())]


def _place(kind: Any, path: str | None) -> list[inspect.Type]:
    """The types that a value at `path` may have; `path` is msgspec's: `$.items[0].op`."""
    found = _alternatives(_type_info(kind))
    for step in _PLACE.finditer(path or ""):
        found = [one for part in found for inner in _inside(part, step["field"]) for one in _alternatives(inner)]
    return found


def _alternatives(kind: inspect.Type) -> list[inspect.Type]:
    return list(kind.types) if isinstance(kind, inspect.UnionType) else [kind]


def _inside(kind: inspect.Type, field: str | None) -> list[inspect.Type]:
    """The types of a field, or of the items where `field` is None."""
    if isinstance(kind, inspect.StructType):
        return [one.type for one in kind.fields if one.encode_name == field]
    return [cast(inspect.Type, getattr(kind, name)) for name in ("item_type", "value_type") if hasattr(kind, name)]
