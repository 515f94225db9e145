"""The contract as documents, made from the code: JSON Schemas, AsyncAPI, and the reference table.

`python -m schema.generate` writes them, `--check` fails when they are not what would be written.
"""

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from pydantic import BaseModel

from events.base import Event
from events.registry import EVENTS
from schema import asyncapi, reference

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

ROOT = Path(__file__).parent.parent
SCHEMAS = Path("schema/events")


def event_schema(event: type[Event]) -> dict[str, Json]:
    """Return the JSON Schema (2020-12) of an event's body as it stands on the wire."""
    schema: dict[str, Json] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:autovibe:event:{event.type()}:{event.version}",
        **model_schema(event),
        "x-aggregate": event.aggregate,
        "x-said-by": [who.value for who in event.said_by],
        "x-through-the-door": event.through_the_door(),
    }
    if event.through_the_door():
        # The log may hold what a newer version says; the door refuses what it does not know.
        schema["additionalProperties"] = False
    return schema


def model_schema(model: type[BaseModel]) -> dict[str, Json]:
    schema: dict[str, Json] = model.model_json_schema()
    schema["description"] = inspect.cleandoc(model.__doc__ or "")
    return schema


def documents() -> Mapping[Path, str]:
    """Return every generated file's path below the root and its text."""
    made = {SCHEMAS / f"{name}.json": _json(event_schema(event)) for name, event in sorted(EVENTS.items())}
    made[Path("schema/asyncapi.json")] = _json(asyncapi.document(model_schema))
    made[Path("docs/reference/events.md")] = reference.page(model_schema)
    return made


def stale(root: Path = ROOT) -> list[str]:
    """Return what is missing, different or too much."""
    made = documents()
    wrong = [f"{path}: not what the code says" for path, text in made.items() if _read(root / path) != text]
    return wrong + [f"{path}: no such event" for path in _left_over(root, made)]


def write(root: Path = ROOT) -> None:
    made = documents()
    for path in _left_over(root, made):
        (root / path).unlink()
    for path, text in made.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")


def _left_over(root: Path, made: Mapping[Path, str]) -> Iterator[Path]:
    for file in sorted((root / SCHEMAS).glob("*.json")):
        path = file.relative_to(root)
        if path not in made:
            yield path


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.exists() else None


def _json(value: Mapping[str, Json]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m schema.generate [--check]\n")
        return 2
    if not arguments:
        write()
        return 0
    wrong = stale()
    for line in wrong:
        sys.stderr.write(f"{line}; remedy: python -m schema.generate\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
