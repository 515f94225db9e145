"""The writer: one at a time, all or nothing, partitions for any month, plans that use the indexes."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest

from events import address
from events.envelope import Cause
from events.machine import MachineRequested
from events.project import ProjectArchived
from events.words import MachineType
from services.kit.message import RawMessage
from services.projector.chain import GENESIS, HEADERS, header_values, link
from services.projector.errors import Fenced
from services.projector.models import MODELS
from services.projector.rows import cut, prepare
from services.projector.writer import Writer
from tests.harness import eventually
from tests.projector.histories import MACHINES, Said, message, messages
from tests.projector.stories import shop
from tests.projector.tables import write
from tests.projector.world import rows


@pytest.fixture
def writer(database: str) -> Iterator[Writer]:
    with Writer(database) as made:
        yield made


def at(raw: RawMessage, moment: datetime) -> RawMessage:
    return replace(raw, recorded_ns=int(moment.timestamp()) * 1_000_000_000)


def test_a_writer_whose_place_was_taken_writes_nothing(writer: Writer, database: str) -> None:
    log = messages(shop(1))
    position = writer.take_over()
    first = prepare(log[:5], 0, position.hash)
    writer.write(first)
    with Writer(database) as second:
        second.take_over()
        with pytest.raises(Fenced):
            writer.write(prepare(log[5:], 5, first.hash))
        assert rows(database, "SELECT max(seq) FROM events") == [(5,)]
        second.write(prepare(log[5:], 5, first.hash))
    assert rows(database, "SELECT max(seq) FROM events") == [(len(log),)]


def test_a_batch_that_does_not_follow_on_is_refused(writer: Writer, database: str) -> None:
    log = messages(shop(1))
    head = writer.take_over().hash
    writer.write(prepare(log[:5], 0, head))
    with pytest.raises(Fenced):
        writer.write(prepare(log[:5], 0, head))
    assert rows(database, "SELECT count(*) FROM events") == [(5,)]


async def test_only_one_leads(writer: Writer, database: str) -> None:
    assert writer.try_lead()
    with Writer(database) as second:
        assert not second.try_lead()
        writer.close()
        await eventually(second.try_lead)  # the server notices a closed connection in its own time


def test_a_batch_that_fails_half_way_leaves_nothing(writer: Writer, database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("ALTER TABLE resource_budgets ADD CHECK (used_amount < 0)")
    batch = prepare(messages(shop(1)), 0, writer.take_over().hash)
    with pytest.raises(psycopg.IntegrityError):
        writer.write(batch)
    assert rows(database, "SELECT position FROM projection") == [(0,)]
    assert rows(database, "SELECT count(*) FROM events") == [(0,)]
    with psycopg.connect(database) as connection:
        connection.execute("ALTER TABLE resource_budgets DROP CONSTRAINT resource_budgets_used_amount_check")
    writer.write(batch)
    assert rows(database, "SELECT position FROM projection") == [(batch.upto,)]


def test_usage_of_any_month_has_a_partition_and_a_year_stands_ready(writer: Writer, database: str) -> None:
    log = messages(shop(1))
    moved = [at(raw, datetime(2019 if raw.seq % 2 else 2031, 12, 31, 23, 59, tzinfo=UTC)) for raw in log]
    write(writer, [moved])
    names = {name for (name,) in rows(database, "SELECT relid::text FROM pg_partition_tree('resource_usage')")}
    assert {
        "resource_usage_2019_12",
        "resource_usage_2020_12",
        "resource_usage_2031_12",
        "resource_usage_2032_12",
    } <= names
    assert rows(database, "SELECT count(*) FROM resource_usage") == [(13,)]


def test_a_gap_ends_the_batch_before_it() -> None:
    log = messages(shop(1))
    batch = prepare([*log[:3], *log[4:]], 0, GENESIS)
    assert (batch.upto, batch.broken) == (3, "gap in the log: seq 5 came after 3")


def test_what_is_delivered_again_is_passed_over() -> None:
    log = messages(shop(1))
    assert prepare([*log[:3], *log[1:6]], 0, GENESIS).hash == prepare(log[:6], 0, GENESIS).hash


@pytest.mark.parametrize("part", ["subject", "header", "data", "seq"])
def test_nothing_of_an_event_can_change_without_changing_the_chain(part: str) -> None:
    said = Said(address.project("webshop"), ProjectArchived(reason="over"), Cause("client:a"))
    raw = message(1, said)

    def hashed(one: RawMessage) -> bytes:
        return link(GENESIS, one.seq, one.subject_bytes, header_values(one.header), one.data)

    changed = {
        "subject": replace(raw, subject_bytes=raw.subject_bytes.replace(b"webshop", b"webshot")),
        "header": replace(raw, header=raw.header.replace(b"client:a", b"client:b")),
        "data": replace(raw, data=raw.data.replace(b"over", b"ovep")),
        "seq": replace(raw, seq=2),
    }
    assert hashed(raw) != hashed(changed[part])
    assert hashed(raw) == hashed(raw)


@pytest.mark.parametrize(
    ("part", "found", "instead", "reason"),
    [
        ("data", b"}", b"", "body does not fit"),
        ("data", b'"over"', b"1", "body does not fit at reason"),
        ("data", b"over", b"\xff", "body does not fit"),
        ("header", b"ce-id", b"ce-no", "seq 1"),
        ("header", b"ce-time", b"ce-no", "seq 1"),
        ("header", b"ce-schemaversion: 1", b"ce-schemaversion: 2", "newer"),
        ("subject_bytes", b"project.webshop", b"machine.webshop", "happens to a project"),
        ("subject_bytes", b"project.webshop", b"project.other", "is no uuid"),
        ("subject_bytes", b"av.webshop", b"av.\xff", "subject"),
    ],
)
def test_what_our_services_did_not_write_is_named_and_not_passed_over(
    part: str, found: bytes, instead: bytes, reason: str
) -> None:
    raw = message(1, Said(address.project("webshop"), ProjectArchived(reason="over"), Cause("client:a")))
    odd = {
        "data": replace(raw, data=raw.data.replace(found, instead)),
        "header": replace(raw, header=raw.header.replace(found, instead)),
        "subject_bytes": replace(raw, subject_bytes=raw.subject_bytes.replace(found, instead)),
    }
    batch = prepare([odd[part]], 0, GENESIS)
    assert (batch.upto, len(batch)) == (0, 0)
    assert reason in (batch.broken or "")


def test_parts_are_bounded_in_events_and_in_bytes() -> None:
    goal = "x" * 60_000
    said = Said(
        address.machine("webshop", MACHINES[0]), MachineRequested(goal=goal, machine_type=MachineType.SHELL), Cause("a")
    )
    log = [message(seq, said) for seq in range(1, 601)]
    parts = list(cut(log, 250))
    assert [raw.seq for part in parts for raw in part] == list(range(1, 601))
    assert max(len(part) for part in parts) <= 250
    assert len(parts) == 3
    assert len(list(cut([replace(raw, data=raw.data * 100) for raw in log[:10]], 250))) == 5
    assert list(cut([], 10)) == []


def test_folds_read_the_stretch_by_an_index_however_large_the_log_is(writer: Writer, database: str) -> None:
    write(writer, [messages(shop(3))])
    with psycopg.connect(database) as connection:
        connection.execute("SET enable_seqscan = off")
        for model in MODELS:
            fold = model.fold.replace("%(after)s", "$1").replace("%(upto)s", "$2")
            plan = connection.execute(f"EXPLAIN (GENERIC_PLAN) {fold}".encode()).fetchall()
            text = "\n".join(line for (line,) in plan)
            assert "Seq Scan on events" not in text, text
            assert "Seq Scan on budget_reservations" not in text, text


def test_headers_are_read_the_same_in_whatever_order_they_stand() -> None:
    said = Said(address.project("webshop"), ProjectArchived(reason="over"), Cause("client:a", UUID(int=1), None, "so"))
    block = message(1, said).header
    lines = block.removeprefix(b"NATS/1.0\r\n").removesuffix(b"\r\n").split(b"\r\n")[:-1]
    turned = b"NATS/1.0\r\n" + b"".join(line + b"\r\n" for line in reversed(lines)) + b"\r\n"
    assert header_values(turned) == header_values(block)
    values = dict(zip(HEADERS, header_values(block), strict=True))
    assert (values[b"ce-actor"], values[b"ce-correlation"], values[b"ce-reason"]) == (b"client:a", b"", b"so")
    assert header_values(block.removesuffix(b"\r\n") + b"Nats-Stream-Source: TIMERS 7\r\n\r\n")[-1] == b"TIMERS 7"
    assert header_values(b"") == (b"",) * len(HEADERS)
