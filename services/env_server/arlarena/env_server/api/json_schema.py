"""JSON Schemas of wire types. Each schema contains all definitions to which it refers."""

from __future__ import annotations

from typing import Any

import msgspec


def schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Returns the JSON Schema of `kind`. The top level describes the object itself, as OpenEnv's clients expect. All
    other types are in `$defs`.
    """
    (root,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    name = root["$ref"].rsplit("/", 1)[-1]
    top = dict(definitions.pop(name))
    return {**top, "$defs": definitions} if definitions else top
