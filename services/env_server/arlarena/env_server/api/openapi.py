"""Generates the OpenAPI document from the table of routes and the wire types."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from arlarena.env_server.api.routes import RAW, Route
from arlarena.proto.env_api import ErrorReply

API_VERSION = "1.0.0"
# Error statuses that every route can have: missing token, unknown query parameter, internal error.
ALWAYS_POSSIBLE = (401, 422, 500)
_REFERENCE = "#/components/schemas/{name}"


def _operation(route: Route, references: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    def content(kind: Any) -> dict[str, Any]:
        return {"application/json": {"schema": references.get(kind, {})}}

    ok: dict[str, Any] = {"description": "Success"}
    if route.reply_type:
        ok["content"] = content(route.reply_type)
    responses = {"204" if route.method == "DELETE" else "200": ok}
    possible = {*route.errors, *ALWAYS_POSSIBLE, *([413] if route.body_type else [])}
    for status in sorted(possible):
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": content(ErrorReply)}
    path_names = re.findall(r"{(\w+)}", route.path)
    text = {"type": "string"}
    parameters = [{"name": name, "in": "path", "required": True, "schema": text} for name in path_names]
    parameters += [{"name": name, "in": "query", "required": False, "schema": text} for name in route.query]
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.handler.__name__,
        "responses": responses,
    }
    if parameters:
        operation["parameters"] = parameters
    if (kind := route.body_type) is not None:
        operation["requestBody"] = {"required": _has_required_fields(kind), "content": content(kind)}
    return operation


def _has_required_fields(kind: Any) -> bool:
    """True if the body has required fields. Then an empty body is invalid, because it is read as `{}`."""
    return kind is not RAW and any(field.required for field in msgspec.structs.fields(kind))


def document(title: str, routes: Sequence[Route]) -> dict[str, Any]:
    """Returns an OpenAPI 3.1 document. OpenEnv's validator requires an `info.version` that begins with "1."."""
    types = (kind for route in routes for kind in (route.body_type, route.reply_type, ErrorReply))
    kinds = list(dict.fromkeys(kind for kind in types if kind and kind is not RAW))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    references = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": API_VERSION},
        "paths": paths,
        "components": {"schemas": components},
    }
