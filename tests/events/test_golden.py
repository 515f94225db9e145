"""What was once written to the log can be read for ever: the golden files are never changed, only added to."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from events.address import parse
from events.envelope import from_headers, to_headers
from events.registry import EVENTS
from events.registry import parse as parse_event

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))


def test_every_event_type_has_a_golden_file_and_none_was_ever_taken_away() -> None:
    assert {path.stem for path in GOLDEN} == set(EVENTS)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_an_event_written_long_ago_is_read_with_all_it_said(path: Path) -> None:
    golden: dict[str, Any] = json.loads(path.read_text("utf-8"))
    address, type_name = parse(golden["subject"])
    event = parse_event(type_name, json.dumps(golden["body"]).encode())
    assert address.aggregate == event.aggregate
    assert _holds(json.loads(event.body()), golden["body"])
    assert to_headers(from_headers(address, type_name, golden["headers"])) == golden["headers"]


def _holds(now: Any, then: Any) -> bool:  # noqa: ANN401 # any JSON
    """Whether everything said then is still said; fields with defaults may have come since."""
    match now, then:
        case dict(), dict():
            return all(key in now and _holds(now[key], said) for key, said in cast("dict[str, Any]", then).items())
        case list(), list():
            parts = list(zip(cast("list[Any]", now), cast("list[Any]", then), strict=True))
            return all(_holds(*part) for part in parts)
        case _:
            return type(now) is type(then) and now == then
