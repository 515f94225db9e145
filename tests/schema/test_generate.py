"""The documents say what the code says."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator

from events.registry import DOOR, EVENTS
from schema import generate


def test_what_is_checked_in_is_what_the_code_says() -> None:
    assert generate.stale() == []
    assert generate.main(["--check"]) == 0


def test_a_changed_a_missing_and_a_left_over_file_are_noticed_and_put_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate.write(tmp_path)
    assert generate.stale(tmp_path) == []
    (tmp_path / "schema/events/MachineEnded.json").write_text("{}")
    (tmp_path / "schema/asyncapi.json").unlink()
    (tmp_path / "schema/events/Gone.json").write_text("{}")
    assert [line.split(":")[0] for line in generate.stale(tmp_path)] == [
        "schema/events/MachineEnded.json",
        "schema/asyncapi.json",
        "schema/events/Gone.json",
    ]
    generate.write(tmp_path)
    assert generate.stale(tmp_path) == []
    assert generate.main(["--wrong"]) == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("name", EVENTS)
def test_a_schema_is_a_schema(name: str) -> None:
    Draft202012Validator.check_schema(generate.event_schema(EVENTS[name]))


def test_the_asyncapi_document_knows_every_event_and_refers_to_nothing_that_is_missing() -> None:
    path = generate.ROOT / "schema/asyncapi.json"
    document: dict[str, Any] = json.loads(path.read_text())
    assert document["asyncapi"] == "3.0.0"
    assert {f"log.{name}" for name in EVENTS} <= set(document["channels"])
    assert {f"in.{name}" for name in DOOR} | {f"ask.{name}" for name in DOOR} <= set(document["channels"])
    assert f"in.{next(iter(set(EVENTS) - set(DOOR)))}" not in document["channels"]
    for reference in _references(document):
        file, _, pointer = reference.partition("#")
        target: Any = json.loads((path.parent / file).read_text()) if file else document
        for part in filter(None, pointer.split("/")):
            target = target[part]
        assert target


def _references(value: Any) -> list[str]:  # noqa: ANN401 # any JSON
    match value:
        case {"$ref": str(reference)}:
            return [reference]
        case dict():
            return [found for part in cast("dict[str, Any]", value).values() for found in _references(part)]
        case list():
            return [found for part in cast("list[Any]", value) for found in _references(part)]
        case _:
            return []
