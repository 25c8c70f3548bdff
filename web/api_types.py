"""Writes src/lib/api/types.ts, the types of the hub's API for the page, from the hub's own routes.

``python web/api_types.py`` writes it; with ``--check`` it only says whether it is current (exit 1: no).
What the hub answers always has every field; what it is asked may leave out fields that have a default.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from thopter.hub.api import ROUTES
from thopter.hub.openapi import document

TARGET = Path(__file__).resolve().parent / "src/lib/api/types.ts"
_HEAD = """// The hub's API as the page calls it. Generated from the hub's routes: ./dev docs writes it anew.
/* eslint-disable */
"""
Json = dict[str, Any]


def render(doc: Json) -> str:
    """The file's text."""
    schemas: Json = doc["components"]["schemas"]
    answers, asks = _reach(doc, schemas, "responses"), _reach(doc, schemas, "requestBody")
    parts = [_HEAD]
    for name in sorted(schemas):
        parts.append(_declare(name, schemas[name], optional=name not in answers and name in asks))
    parts.append(_operations(doc, answers))
    return "\n".join(parts)


def _refs(value: Any) -> set[str]:
    if isinstance(value, dict):
        found = {value["$ref"].rsplit("/", 1)[1]} if "$ref" in value else set()
        return found.union(*(_refs(v) for v in value.values()))
    if isinstance(value, list):
        return set().union(*(_refs(v) for v in value))
    return set()


def _reach(doc: Json, schemas: Json, part: str) -> set[str]:
    """Names of the schemas that occur in ``part`` of any operation, directly or inside others."""
    todo = set().union(*(_refs(op.get(part)) for methods in doc["paths"].values() for op in methods.values()))
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo |= _refs(schemas[name]) - found
    return found


def _declare(name: str, schema: Json, optional: bool) -> str:
    doc = " ".join(schema.get("description", "").replace("``", "`").replace("*/", "").split())
    comment = f"/** {doc} */\n" if doc else ""
    if schema.get("type") != "object" or "properties" not in schema:
        return f"{comment}export type {name} = {_type(schema)};\n"
    required = set(schema.get("required", []))
    lines = []
    for key, spec in schema["properties"].items():
        mark = "?" if optional and key not in required else ""
        undefined = " | undefined" if mark else ""
        lines.append(f"  {key}{mark}: {_type(spec, partial=optional)}{undefined};")
    return f"{comment}export interface {name} {{\n" + "\n".join(lines) + "\n}\n"


def _type(spec: Json, partial: bool = False) -> str:
    if "$ref" in spec:
        name = spec["$ref"].rsplit("/", 1)[1]
        return f"Partial<{name}>" if partial else name
    if "anyOf" in spec:
        return " | ".join(dict.fromkeys(_type(s, partial) for s in spec["anyOf"]))
    if "enum" in spec:
        return " | ".join(json.dumps(v) for v in spec["enum"])
    if "const" in spec:
        return json.dumps(spec["const"])
    kind = spec.get("type")
    if isinstance(kind, list):
        return " | ".join(dict.fromkeys(_type({**spec, "type": k}, partial) for k in kind))
    if kind == "array":
        if "prefixItems" in spec:
            return "[" + ", ".join(_type(s, partial) for s in spec["prefixItems"]) + "]"
        inner = _type(spec.get("items") or {}, partial)
        return f"({inner})[]" if " " in inner else f"{inner}[]"
    if kind == "object":
        extra = spec.get("additionalProperties")
        return f"Record<string, {_type(extra, partial) if isinstance(extra, dict) else 'unknown'}>"
    plain = {
        "string": "string",
        "integer": "number",
        "number": "number",
        "boolean": "boolean",
        "null": "null",
    }
    return plain.get(str(kind), "unknown")


def _operations(doc: Json, answers: set[str]) -> str:
    lines = ["/** Every JSON call: what it takes and what it answers. */", "export interface Calls {"]
    for path, methods in sorted(doc["paths"].items()):
        for method, op in sorted(methods.items()):
            done = next(v for k, v in op["responses"].items() if k not in ("4XX", "5XX"))
            answer = done.get("content", {}).get("application/json", {}).get("schema")
            body = op.get("requestBody", {}).get("content", {})
            if answer is None or (body and "application/json" not in body):
                continue
            query = [p for p in op["parameters"] if p["in"] == "query"]
            fields = [f"answer: {_type(answer)}"]
            if query:
                inner = "; ".join(
                    f"{p['name']}{'' if p['required'] else '?'}: {_type(p['schema'])}"
                    + ("" if p["required"] else " | undefined")
                    for p in query
                )
                fields.insert(0, f"query: {{ {inner} }}")
            if body:
                name = _type(body["application/json"]["schema"])
                fields.insert(0, f"body: {f'Partial<{name}>' if name in answers else name}")
            lines.append(f'  "{method.upper()} {path}": {{ {"; ".join(fields)} }};')
    return "\n".join([*lines, "}", ""])


def main(argv: list[str]) -> int:
    """Write the file, or say whether it is current."""
    text = render(document(ROUTES))
    if "--check" in argv:
        if TARGET.exists() and TARGET.read_text("utf-8") == text:
            return 0
        print("web/src/lib/api/types.ts is not what the hub's API is: run ./dev docs", file=sys.stderr)
        return 1
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
