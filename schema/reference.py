"""docs/reference/events.md: every event type, who says it, and its fields."""

import inspect
from collections.abc import Callable, Iterator
from typing import TypeAlias

from pydantic import BaseModel

from events.base import BODY_BYTES_MAX, Event
from events.machine import MachineEvent
from events.registry import EVENTS

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
SchemaOf: TypeAlias = Callable[[type[BaseModel]], dict[str, Json]]

_INTRODUCTION = f"""# Events

Made by `python -m schema.generate` from `events/`; the JSON Schema of each body is in `schema/events/`, subjects and
headers are in `schema/asyncapi.json`.

An event stands in the log under `av.<project>.<aggregate>.<id>.<Type>`. What comes *through the door* is published to
`in.<project>.<aggregate>.<id>.<Type>`, or asked with a request to `ask.<project>.<aggregate>.<id>.<Type>`; the door
refuses unknown fields and bodies above {BODY_BYTES_MAX // 1024} KiB. Fields that are not required may be left out.
"""
_BOUNDS = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minimum": "≥ {}",
    "maximum": "≤ {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "maxProperties": "at most {} entries",
    "pattern": "`{}`",
}


def page(schema_of: SchemaOf) -> str:
    aggregates = sorted({event.aggregate for event in EVENTS.values()})
    parts = [_INTRODUCTION, _overview(aggregates)]
    for aggregate in aggregates:
        parts.append(f"## {aggregate}\n")
        parts += [_event(name, event, schema_of(event)) for name, event in _of(aggregate)]
    return "\n".join(parts)


def _of(aggregate: str) -> list[tuple[str, type[Event]]]:
    return [(name, event) for name, event in EVENTS.items() if event.aggregate == aggregate]


def _overview(aggregates: list[str]) -> str:
    lines = ["| event | aggregate | said by | through the door | phase after it |", "|---|---|---|---|---|"]
    for aggregate in aggregates:
        for name, event in _of(aggregate):
            phase = event.phase.value if issubclass(event, MachineEvent) and event.phase else ""
            door = "yes" if event.through_the_door() else ""
            lines.append(f"| [{name}](#{name.lower()}) | {aggregate} | {', '.join(event.said_by)} | {door} | {phase} |")
    return "\n".join(lines) + "\n"


def _event(name: str, event: type[Event], schema: dict[str, Json]) -> str:
    text = inspect.cleandoc(event.__doc__ or "")
    rows = list(_fields(schema))
    if not rows:
        return f"### {name}\n\n{text}\n\nNo fields.\n"
    return "\n".join(
        [f"### {name}\n\n{text}\n", "| field | type | required | bounds |", "|---|---|---|---|", *rows, ""]
    )


def _fields(schema: dict[str, Json]) -> Iterator[str]:
    properties, required, defs = schema.get("properties", {}), schema.get("required", []), schema.get("$defs", {})
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    assert isinstance(defs, dict)
    for name, field in properties.items():
        assert isinstance(field, dict)
        needed = "yes" if name in required else _default(field)
        yield f"| `{name}` | {_type(field, defs)} | {needed} | {_bounds(field)} |".replace("\\", "\\\\")


def _default(field: dict[str, Json]) -> str:
    default = field.get("default")
    return "" if default is None or isinstance(default, dict | list) else f"default `{default}`"


def _type(field: dict[str, Json], defs: dict[str, Json]) -> str:  # noqa: PLR0911 # a case per kind of type
    match field:
        case {"$ref": str(reference)}:
            name = reference.rpartition("/")[2]
            inner = defs[name]
            assert isinstance(inner, dict)
            return _words(inner) if "enum" in inner else name
        case {"anyOf": [*parts]}:
            return " or ".join(
                _type(part, defs) for part in parts if isinstance(part, dict) and part.get("type") != "null"
            )
        case {"const": const}:
            return f"`{const}`"
        case {"enum": [*_]}:
            return _words(field)
        case {"type": "array", "items": dict(items)}:
            return f"list of {_type(items, defs)}"
        case {"type": "object", "additionalProperties": dict(value)}:
            return f"map to {_type(value, defs)}"
        case {"type": "string", "format": str(form)}:
            return {"date-time": "time", "uuid": "uuid"}.get(form, form)
        case _:
            return str(field.get("type", "any"))


def _words(schema: dict[str, Json]) -> str:
    values = schema["enum"]
    assert isinstance(values, list)
    return ", ".join(f"`{value}`" for value in values)


def _bounds(field: dict[str, Json]) -> str:
    found = [text.format(field[name]) for name, text in _BOUNDS.items() if name in field]
    options = field.get("anyOf")
    for option in options if isinstance(options, list) else []:
        if isinstance(option, dict):
            found += [text.format(option[name]) for name, text in _BOUNDS.items() if name in option]
    return ", ".join(found).replace("|", "\\|")
