"""Error messages for invalid JSON values. Each message is msgspec's message and a list of valid names.

For an unknown field or an unknown value of an enumeration, the list has the known names (`known: close, reset, state,
step; did you mean 'step'?`). If a field is missing, or if a value should be an object but is not, the list has the
fields of the object.
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
_PATH_STEP = re.compile(r"\.(?P<field>\w+)|\[[^\]]*\]")


def explain(error: msgspec.ValidationError, kind: Any) -> str:
    """Returns the message of `error` and the list of valid names. `kind`: the type that the JSON should have."""
    message = str(error)
    if match := _UNKNOWN_FIELD.match(message):
        names = _fields(kind, match["path"])
    elif match := _UNKNOWN_VALUE.match(message):
        types = _types_at(kind, match["path"])
        names = [str(value) for each in types if isinstance(each, inspect.LiteralType) for value in each.values]
    else:
        match = _NO_OBJECT.match(message)
        names = _fields(kind, match["path"]) if match else []
        return f"{message}; its fields: {', '.join(names)}" if names else message
    return f"{message}; {known_names(match['word'].strip(chr(39)), names)}" if names else message


@cache
def _type_info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _fields(kind: Any, path: str | None) -> list[str]:
    """Returns the field names of the objects that are allowed at `path`."""
    return [field.encode_name for each in _types_at(kind, path) for field in getattr(each, "fields", ())]


def _types_at(kind: Any, path: str | None) -> list[inspect.Type]:
    """Returns the types that a value at `path` may have. `path`: in msgspec's notation, such as `$.items[0].op`."""
    types = _alternatives(_type_info(kind))
    for step in _PATH_STEP.finditer(path or ""):
        inner_types = [inner for outer in types for inner in _inside(outer, step["field"])]
        types = [each for inner in inner_types for each in _alternatives(inner)]
    return types


def _alternatives(kind: inspect.Type) -> list[inspect.Type]:
    return list(kind.types) if isinstance(kind, inspect.UnionType) else [kind]


def _inside(kind: inspect.Type, field: str | None) -> list[inspect.Type]:
    """Returns the types of a field of an object. If `field` is None, returns the types of a collection's items."""
    if isinstance(kind, inspect.StructType):
        return [each.type for each in kind.fields if each.encode_name == field]
    return [cast(inspect.Type, getattr(kind, name)) for name in ("item_type", "value_type") if hasattr(kind, name)]
