"""Every event is frozen, bounded, documented, named for what happened, and read the same as it was written."""

import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from events.base import Event
from events.machine import MachineEvent
from events.registry import DOOR, EVENTS, UnknownType, parse, parse_at_door
from events.words import STATUS_OF_PHASE, MachineStatus, Phase, Said
from schema.generate import event_schema
from tests.events.strategies import events

ALL = pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
PAST_TENSE = ("ed", "Taken", "Held", "Drawn", "Lost", "Ready", "Denied")
BOUNDS = {
    "string": {"maxLength", "pattern", "enum", "const", "format"},
    "integer": {"maximum", "exclusiveMaximum"},
    "array": {"maxItems"},
    "object": {"properties", "maxProperties"},
    "boolean": {"type"},
    "null": {"type"},
}
"""What bounds a value of each type; a number is bounded by nothing, since amounts are strings."""
ENVELOPE = {"id", "event_id", "seq", "time", "occurred_at", "recorded_at", "actor", "cause", "correlation", "type"}


@ALL
def test_an_event_says_who_says_it_and_what_it_means(event: type[Event]) -> None:
    assert (event.__doc__ or "").strip().endswith((".", "`")), "a sentence"
    assert event.__doc__ != Event.__doc__
    assert event.said_by
    assert all(isinstance(who, Said) for who in event.said_by)
    assert event.through_the_door() == (Said.DOOR in event.said_by)


@ALL
def test_an_event_is_named_for_what_has_happened(event: type[Event]) -> None:
    assert event.type().endswith(PAST_TENSE)


@ALL
def test_the_body_holds_only_what_happened(event: type[Event]) -> None:
    assert not ENVELOPE & set(event.model_fields)


@ALL
def test_nothing_in_a_body_is_unbounded(event: type[Event]) -> None:
    assert list(_unbounded(event_schema(event))) == []


@ALL
def test_an_event_cannot_be_changed(event: type[Event]) -> None:
    assert event.model_config.get("frozen")
    for field in event.model_fields.values():
        for inner in _models(field.annotation):
            assert inner.model_config.get("frozen"), inner


@ALL
@given(data=st.data())
def test_what_was_written_is_read_again(event: type[Event], data: st.DataObject) -> None:
    said = data.draw(events(event))
    assert parse(event.type(), said.body()) == said
    Draft202012Validator(event_schema(event)).validate(json.loads(said.body()))


@ALL
@given(data=st.data())
def test_history_ignores_what_it_does_not_know_and_the_door_refuses_it(event: type[Event], data: st.DataObject) -> None:
    said = data.draw(events(event))
    newer = json.dumps({**json.loads(said.body()), "said_by_a_newer_version": 1}).encode()
    assert parse(event.type(), newer) == said
    with pytest.raises(UnknownType if event.type() not in DOOR else ValidationError):
        parse_at_door(event.type(), newer)


@given(st.binary(max_size=64))
def test_bytes_that_are_no_event_are_refused_and_nothing_else_happens(body: bytes) -> None:
    for name in ("MachineRequested", "UsageRecorded", "BudgetReserved"):
        with pytest.raises(ValidationError):
            parse(name, body)


@pytest.mark.parametrize("name", ["", "MachineExploded", "Event", "ProjectEvent", "machinerequested"])
def test_a_type_that_does_not_exist_is_unknown_to_both_readers(name: str) -> None:
    with pytest.raises(UnknownType):
        parse(name, b"{}")
    with pytest.raises(UnknownType):
        parse_at_door(name, b"{}")


@pytest.mark.parametrize("amount", ["-1", "NaN", "Infinity", "0.0000000001", "1" * 12, "", "one", 1.5, 1, True, None])
def test_what_is_no_exact_amount_is_refused(amount: object) -> None:
    body = json.dumps({"amount": amount, "unit": "CAD"}).encode()
    with pytest.raises(ValidationError):
        parse_at_door("BudgetRequested", body)


def test_a_cap_of_nothing_is_a_cap() -> None:
    assert parse_at_door("BudgetRequested", b'{"amount": "0", "unit": "CAD"}').model_dump()["amount"] == 0


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../b", "a//b", ".", "a/.", "", "a\0b", "a/"])
def test_a_file_outside_the_workspace_is_refused(path: str) -> None:
    body = json.dumps({"goal": "x", "machine_type": "shell", "files": [{"path": path, "text": ""}]}).encode()
    with pytest.raises(ValidationError):
        parse_at_door("MachineRequested", body)


def test_every_phase_has_a_reporting_status_and_is_reached_by_an_event() -> None:
    assert set(STATUS_OF_PHASE) == set(Phase)
    assert set(STATUS_OF_PHASE.values()) == set(MachineStatus)
    reached = {event.phase for event in EVENTS.values() if issubclass(event, MachineEvent)}
    assert reached - {None} == set(Phase)


def _models(annotation: Any) -> Iterator[Any]:  # noqa: ANN401 # any annotation
    if hasattr(annotation, "model_config"):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)


def _unbounded(schema: Any, where: str = "body") -> Iterator[str]:  # noqa: ANN401 # any JSON
    match schema:
        case list():
            for number, part in enumerate(cast("list[Any]", schema)):
                yield from _unbounded(part, f"{where}[{number}]")
        case dict():
            found = cast("dict[str, Any]", schema)
            if "type" in found and not BOUNDS.get(found["type"], set()) & set(found):
                yield where
            for name, part in found.items():
                if name not in {"default", "required", "enum"}:
                    yield from _unbounded(part, f"{where}.{name}")
        case _:
            pass
