"""Subjects, headers and ids: what stands beside an event survives the wire unchanged."""

import time
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from events import address, fresh, ids
from events.address import Address, BadSubject, parse
from events.envelope import Cause, Envelope, Recorded, from_headers, to_headers
from events.machine import MachineWorkStarted

TOKENS = st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
MAYBE_IDS = st.none() | st.uuids()
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 # given beside


@given(TOKENS, TOKENS, TOKENS, TOKENS)
def test_a_subject_is_read_as_it_was_spelled(project: str, aggregate: str, id_: str, name: str) -> None:
    where = Address(project, aggregate, id_)
    assert parse(where.subject(name)) == (where, name)
    assert where.subject(name).startswith(where.filter().removesuffix(">"))


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "av",
        "av.a.b.c",
        "av.a.b.c.d.e",
        "in.a.b.c.d",
        "av.a.b..d",
        "av.a.b.*.d",
        "av.a.b.>.d",
        "av.a.b.c d.e",
        "av.é.b.c.d",
    ],
)
def test_an_odd_subject_is_refused(subject: str) -> None:
    with pytest.raises(BadSubject):
        parse(subject)


def test_a_token_of_more_than_128_characters_is_refused() -> None:
    with pytest.raises(BadSubject):
        parse(f"av.p.machine.{'x' * 129}.T")


@given(st.builds(Cause, TEXTS, MAYBE_IDS, MAYBE_IDS, TEXTS), st.uuids(), TIMES)
def test_an_envelope_survives_the_wire_whatever_its_texts_hold(cause: Cause, id_: UUID, at: datetime) -> None:
    envelope = Envelope(address.machine("webshop", id_), "MachineWorkStarted", 1, cause, id_, at)
    headers = to_headers(envelope)
    assert from_headers(envelope.address, envelope.type, headers) == envelope
    for value in headers.values():
        assert value.isascii()
        assert value.isprintable()


@pytest.mark.parametrize("missing", ["ce-id", "ce-time"])
def test_a_message_without_id_or_time_was_not_written_by_us(missing: str) -> None:
    envelope = Envelope(address.project("webshop"), "ProjectArchived", 1, Cause("x"), UUID(int=7), datetime.now(UTC))
    headers = {name: value for name, value in to_headers(envelope).items() if name != missing}
    with pytest.raises(ValueError, match=r".+"):
        from_headers(envelope.address, envelope.type, headers)


def test_what_answers_an_event_keeps_its_story() -> None:
    began, answered = UUID(int=1), UUID(int=2)
    where = address.machine("webshop", UUID(int=3))

    def recorded(id_: UUID, correlation: UUID | None) -> Recorded:
        cause = Cause("budget", correlation=correlation)
        envelope = Envelope(where, "MachineWorkStarted", 1, cause, id_, datetime.now(UTC))
        return Recorded(1, datetime.now(UTC), envelope, MachineWorkStarted(epoch=1))

    assert recorded(began, None).caused("spawner") == Cause("spawner", began, began)
    assert recorded(answered, began).caused("spawner", "why") == Cause("spawner", answered, began, "why")


@given(st.lists(TEXTS, max_size=4), st.lists(TEXTS, max_size=4))
def test_no_two_lists_of_parts_share_a_derived_id(some: list[str], others: list[str]) -> None:
    assume(some != others)
    assert ids.derived(*some) != ids.derived(*others)


def test_derived_ids_are_the_same_for_ever() -> None:
    assert ids.project_uuid("webshop") == UUID("79a32d9c-d6e8-50b7-956b-4a424ed0fdba")
    assert ids.door_id("project:webshop", "1") == UUID("e3903e71-78bd-59ce-b794-645304d2a975")


def test_nobody_can_claim_another_senders_id() -> None:
    assert ids.door_id("project:a", "1") != ids.door_id("project:b", "1")


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("web-shop-2", True),
        ("a" * 63, True),
        ("a" * 64, False),
        ("", False),
        ("Shop", False),
        ("a.b", False),
        ("_hub", False),
        ("a\n", False),
    ],
)
def test_what_is_a_slug(text: str, good: bool) -> None:  # noqa: FBT001 # a table
    assert ids.is_slug(text) is good


def test_fresh_ids_are_version_7_and_carry_the_time() -> None:
    before = time.time_ns() // 1_000_000
    made = [fresh.uuid7() for _ in range(200)]
    after = time.time_ns() // 1_000_000
    assert len(set(made)) == 200
    assert {(one.version, one.variant) for one in made} == {(7, "specified in RFC 4122")}
    assert all(before <= one.int >> 80 <= after for one in made)
    assert fresh.now().tzinfo is UTC
