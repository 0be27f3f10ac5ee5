"""JSON Schemas of wire types, each complete in itself."""

from __future__ import annotations

from typing import Any

import msgspec


def schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """A JSON Schema whose top level is the object itself, as OpenEnv's clients expect, its definitions beside it."""
    (root,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    name = root["$ref"].rsplit("/", 1)[-1]
    top = dict(definitions.pop(name))
    return {**top, "$defs": definitions} if definitions else top
