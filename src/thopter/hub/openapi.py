"""The OpenAPI 3.1 document, made from the table of routes and the types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

import thopter
from thopter.hub.ports import Json
from thopter.hub.routes import NoQuery, Route
from thopter.model.api import ErrorBody, Nothing

_REF = "#/components/schemas/{name}"
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Same key and same request: same answer. Same key and another request: 409.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]{1,200}$"},
}
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def document(routes: Sequence[Route]) -> Json:
    """Return the document as plain JSON values."""
    types = _types(routes)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: Json = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "thopter hub",
            "version": thopter.__version__,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Needed on TCP; the unix socket needs none.",
                }
            },
        },
    }


def _types(routes: Sequence[Route]) -> list[Any]:
    found: list[Any] = [ErrorBody]
    for route in routes:
        found += [kind for kind in (route.request, route.response) if kind not in found]
    return found


def _operation(route: Route, schema_of: dict[Any, Any]) -> Json:
    parameters = _query_parameters(route.query)
    if route.parameter:
        parameters.insert(0, _path_parameter(route.parameter))
    if route.mutating and not route.repeatable:
        parameters.append(_KEY)
    found: Json = {
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [route.path.split("/")[2].removesuffix(".json")],
        "parameters": parameters,
        "responses": _responses(route, schema_of),
        "x-scope": route.scope,
    }
    body = _request_body(route, schema_of)
    if body is not None:
        found["requestBody"] = body
    return found


def _path_parameter(name: str) -> Json:
    words = {"name": "A thopter's name, or a unique prefix of it.", "id": "The flow's id."}
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": words[name],
        "schema": {"type": "string", "minLength": 1},
    }


def _query_parameters(query: type[Struct]) -> list[Json]:
    if query is NoQuery:
        return []
    schema = msgspec.json.schema(query)
    defined: Json = schema["$defs"][query.__name__]
    required = defined.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _without_null(spec)}
        for name, spec in defined["properties"].items()
    ]


def _without_null(spec: Json) -> Json:
    """A query can't say null: leaving the name out says it."""
    options = [option for option in spec.get("anyOf", []) if option != {"type": "null"}]
    if len(options) != 1:
        return spec
    return {**options[0], **{k: v for k, v in spec.items() if k not in ("anyOf", "default")}}


def _request_body(route: Route, schema_of: dict[Any, Any]) -> Json | None:
    if route.kind == "upload":
        return {"required": True, "content": _BYTES}
    if route.kind != "json" or route.request is Nothing:
        return None
    needed = any(each.required for each in msgspec.structs.fields(route.request))
    return {"required": needed, "content": {"application/json": {"schema": schema_of[route.request]}}}


def _responses(route: Route, schema_of: dict[Any, Any]) -> Json:
    error = {"description": "An error", "content": {"application/json": {"schema": schema_of[ErrorBody]}}}
    schema = {"schema": schema_of[route.response]}
    content: Json = {"application/json": schema}
    if route.kind == "bytes":
        content = _BYTES
    elif route.kind == "events":
        content = {"text/event-stream": schema}
    done: Json = {"description": route.summary, "content": content}
    if route.kind == "exec":
        done = {"description": "Switching to WebSocket; see the contract of exec"}
    return {str(route.status): done, "4XX": error, "5XX": error}
