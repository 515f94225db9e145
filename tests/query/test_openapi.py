"""The document is valid, whole, and says what the service does."""

import json
from typing import Any

from jsonschema import Draft202012Validator

from services.query.openapi import document
from services.query.pages import PAGING
from tests.query.world import OPERATOR, SHOP, VIEWER, World

METHODS = {"get", "post", "patch", "delete"}
OPERATION_FIELDS = {"operationId", "summary", "description", "parameters", "responses", "requestBody"}


async def test_the_document_is_served_and_has_every_route_and_none_else(world: World) -> None:
    served = (await world.client(VIEWER).get("/openapi.json")).json
    assert served == json.loads(json.dumps(document(world.query.routes, served["info"]["version"])))
    listed = {(method.upper(), path) for path, operations in served["paths"].items() for method in operations}
    assert listed == {(route.method, route.path) for route in world.query.routes}
    _is_valid(served)


def _is_valid(served: dict[str, Any]) -> None:
    """The structure that OpenAPI 3.1 asks for; every schema is a JSON Schema, every reference leads somewhere."""
    assert served["openapi"] == "3.1.0"
    assert {"title", "version"} <= served["info"].keys()
    ids: list[str] = []
    for path, operations in served["paths"].items():
        assert path.startswith("/")
        assert operations.keys() <= METHODS
        for operation in operations.values():
            assert operation.keys() <= OPERATION_FIELDS
            ids.append(operation["operationId"])
            names = [(parameter["in"], parameter["name"]) for parameter in operation["parameters"]]
            assert len(names) == len(set(names))
            assert {name for where, name in names if where == "path"} == set(_placeholders(path))
            for parameter in operation["parameters"]:
                Draft202012Validator.check_schema(parameter["schema"])
                assert parameter.get("required") is True or parameter["in"] == "query"
            for status, response in operation["responses"].items():
                assert status == "default" or 200 <= int(status) < 600
                assert response["description"]
                for content in response["content"].values():
                    _resolves(content.get("schema", {}), served)
            for content in operation.get("requestBody", {"content": {}})["content"].values():
                _resolves(content["schema"], served)
    assert len(ids) == len(set(ids))
    for schema in served["components"]["schemas"].values():
        _resolves(schema, served)


def _placeholders(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def _resolves(schema: dict[str, Any], served: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    text = json.dumps(schema)
    assert "#/$defs/" not in text
    for piece in text.split('"$ref": "')[1:]:
        name = piece.partition('"')[0].removeprefix("#/components/schemas/")
        assert name in served["components"]["schemas"], name


async def test_answers_are_as_the_document_says(world: World) -> None:
    await world.project(SHOP)
    await world.machine(SHOP, ended=True)
    await world.settled()
    served = (await world.client().get("/openapi.json")).json
    for path, operations in served["paths"].items():
        content = operations.get("get", {}).get("responses", {}).get("200", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema")
        if not schema or "{id}" in path:
            continue
        answer = await world.client().get(path, project=SHOP if path.endswith("/tree") else None)
        Draft202012Validator(schema).validate(answer.json)


async def test_what_the_document_calls_a_parameter_is_taken(world: World) -> None:
    """Each is sent with a value that cannot be right; what is complained of is the value, not the name."""
    for route in world.query.routes:
        for name in route.declared:
            target = f"{route.path.replace('{id}', 'ffffffff')}?{name}=%00"
            answer = await world.client().ask(route.method, target, b"{}" if route.body else None)
            assert (answer.status, answer.json["field"]) == (400, name), target
            assert "a parameter here" not in answer.json["limit"]
    assert {parameter.name for parameter in PAGING} == {"limit", "cursor"}
    assert (await world.client(OPERATOR).get("/api/v1/projects?cursor=x")).status == 400
