"""The OpenAPI 3.1 document, made from the route table and the events' own JSON Schemas."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import cast

from pydantic import BaseModel

from services.query.http import JSON, Route
from services.query.parameters import Parameter
from services.query.problems import MEDIA_TYPE

REF = "#/components/schemas/{model}"
PROBLEM: Mapping[str, object] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        **{
            name: {"type": "string"}
            for name in ("type", "title", "detail", "code", "field", "value", "limit", "remedy")
        },
        "status": {"type": "integer"},
    },
}
TEXT: Mapping[str, object] = {"type": "string"}
SAID: Mapping[str, object] = {
    "type": "object",
    "required": ["uuid"],
    "properties": {"uuid": TEXT, "seq": {"type": "integer"}, "id": TEXT},
}
"""What a command answers."""


def document(routes: Sequence[Route], version: str) -> dict[str, object]:
    """Return the whole document; every route of the table is in it, none else."""
    schemas: dict[str, object] = {"Problem": PROBLEM}
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "autovibe", "version": version, "summary": "Read the hub; knock at its door."},
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas,
        },
    }


def body_of(model: type[BaseModel], **more: Mapping[str, object]) -> dict[str, object]:
    """An event's body, and beside it what says whom it is about."""
    schema = model.model_json_schema(ref_template=REF)
    return {**schema, "properties": {**more, **schema.get("properties", {})}}


def items(properties: Sequence[str]) -> dict[str, object]:
    """A page of items with these properties."""
    return {
        "type": "object",
        "required": ["items", "next"],
        "properties": {
            "items": {"type": "array", "items": item(properties)},
            "next": {"type": ["string", "null"]},
        },
    }


def item(properties: Sequence[str]) -> dict[str, object]:
    return {"type": "object", "required": list(properties), "properties": {name: {} for name in properties}}


def _operation(route: Route, schemas: dict[str, object]) -> dict[str, object]:
    problem = {"description": "refused", "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    answer: dict[str, object] = {"schema": dict(route.answer)} if route.answer else {}
    operation: dict[str, object] = {
        "operationId": f"{route.method.lower()}{re.sub('[^a-zA-Z0-9]+', '_', route.path)}",
        "summary": route.summary,
        "description": f"Needs the role {route.role}" + (" and a key for every project." if route.everything else "."),
        "parameters": [
            *_path_parameters(route.path),
            *(_parameter(parameter) for parameter in route.declared.values()),
        ],
        "responses": {
            str(route.status): {"description": HTTPStatus(route.status).phrase, "content": {route.answers: answer}},
            "default": problem,
        },
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": _hoisted(route.body, schemas)}}}
    return operation


def _hoisted(body: Mapping[str, object], schemas: dict[str, object]) -> dict[str, object]:
    """Move a schema's own definitions to where the whole document finds them."""
    schemas.update(cast("Mapping[str, object]", body.get("$defs", {})))
    return {name: value for name, value in body.items() if name != "$defs"}


def _path_parameters(path: str) -> list[dict[str, object]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _parameter(parameter: Parameter) -> dict[str, object]:
    schema: dict[str, object] = {"type": "string"}
    if parameter.words:
        schema["enum"] = list(parameter.words)
    described: dict[str, object] = {"name": parameter.name, "in": "query", "description": parameter.expects}
    if parameter.required:
        described["required"] = True
    return {**described, "schema": schema}
