"""Error messages for invalid values. A message is msgspec's message plus the valid names.

An unknown value or field gets the list of known names (`known: close, reset, state, step; did you mean 'step'?`). A
missing field, or a value in the place of an object, gets the list of the object's fields.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, cast

import msgspec
from msgspec import inspect

from arlarena.proto.text.names import known_names

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<word>.*?)`(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN_VALUE = re.compile(r"Invalid enum value (?P<word>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_NO_OBJECT = re.compile(
    r"(?:Expected `object(?: \| null)?`, got .*?|Object missing required field .*?)(?: - at `(?P<path>[^`]*)`)?$",
    re.DOTALL,
)
_PLACE = re.compile(r"\.(?P<field>\w+)|\[[^\]]*\]")


def explained(error: msgspec.ValidationError, kind: Any) -> str:
    """Returns the error's message with the valid names or values added. `kind`: the type that could not be decoded."""
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
    return f"{message}; {known_names(found['word'].strip(chr(39)), names)}" if names else message


@cache
def _type_info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _fields(kind: Any, path: str | None) -> list[str]:
    """Returns the field names of the objects that are allowed at `path`."""
    return [field.encode_name for part in _place(kind, path) for field in getattr(part, "fields", ())]


def _place(kind: Any, path: str | None) -> list[inspect.Type]:
    """Returns the types that a value at `path` may have. `path`: in msgspec's notation, such as `$.items[0].op`."""
    found = _alternatives(_type_info(kind))
    for step in _PLACE.finditer(path or ""):
        found = [one for part in found for inner in _inside(part, step["field"]) for one in _alternatives(inner)]
    return found


def _alternatives(kind: inspect.Type) -> list[inspect.Type]:
    return list(kind.types) if isinstance(kind, inspect.UnionType) else [kind]


def _inside(kind: inspect.Type, field: str | None) -> list[inspect.Type]:
    """Returns the types of a field. If `field` is None, returns the types of the items."""
    if isinstance(kind, inspect.StructType):
        return [one.type for one in kind.fields if one.encode_name == field]
    return [cast(inspect.Type, getattr(kind, name)) for name in ("item_type", "value_type") if hasattr(kind, name)]
