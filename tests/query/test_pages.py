"""Paging: everything once, in order, whatever the sort keys are, and by an index."""

import json
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from events.fresh import uuid7
from events.ids import project_uuid
from schema.streams import OUTPUT, REJECTED
from services.query.letters import REJECTED_STREAM
from services.query.listings import BUDGETS, CHECKPOINTS, CREDENTIALS, EVENTS, HUBS, MACHINES, PROJECTS, USAGE
from services.query.live import OUTPUT_STREAM
from services.query.pages import Cursor, Listing, page_body, read_cursor, write_cursor
from services.query.parameters import read_all
from services.query.position import CHANNEL
from services.query.problems import HttpProblem

LISTINGS = {"projects": PROJECTS, "machines": MACHINES, "checkpoints": CHECKPOINTS, "usage": USAGE, "budgets": BUDGETS,
            "events": EVENTS, "hubs": HUBS, "credentials": CREDENTIALS}  # fmt: skip

MACHINE_ROWS = """
    INSERT INTO intelligent_machines
           (uuid, project_uuid, machine_type, status, phase, epoch, checkpoint_count, original_prompt,
            file_modifications, resource_constraints, resource_usage, holds, metadata, spawned_at, updated_at, last_seq)
    SELECT row.uuid, %(project)s, 'shell', 'terminated', 'ended', 1, 0, 'x', '{}', '{}', '{}', '[]', '{}',
           timestamptz '2026-01-01T00:00:00Z' + row.at * interval '1 microsecond', now(), 1
      FROM unnest(%(uuids)s::uuid[], %(ats)s::int[]) AS row (uuid, at)
"""
PROJECT = project_uuid("webshop")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.uuids(), st.integers(0, 3)), max_size=40, unique_by=lambda row: row[0]),
    limit=st.integers(1, 12),
    scoped=st.sampled_from([None, ["webshop"], ["webshop", "bakery"]]),
)
def test_paging_through_everything_yields_each_row_once_in_order(
    database: str, rows: list[tuple[UUID, int]], limit: int, scoped: list[str] | None
) -> None:
    """Most sort keys are equal here, so the tie decides."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("TRUNCATE intelligent_machines")
        values = {"project": PROJECT, "uuids": [uuid for uuid, _ in rows], "ats": [at for _, at in rows]}
        connection.execute(MACHINE_ROWS, values)
        seen: list[str] = []
        cursor: str | None = None
        pages = 0
        while pages == 0 or cursor is not None:
            asked = [("limit", str(limit)), *([("cursor", cursor)] if cursor else [])]
            page = _page(connection, MACHINES, asked, scoped)
            seen += [item["uuid"] for item in page["items"]]
            cursor = page["next"]
            pages += 1
            assert len(page["items"]) == limit or cursor is None
        expected = sorted(rows, key=lambda row: (row[1], row[0].int), reverse=True)
        assert seen == [str(uuid) for uuid, _ in expected]
        assert pages == max(1, -(-len(rows) // limit))


async def test_rows_that_arrive_meanwhile_shift_nothing(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            MACHINE_ROWS, {"project": PROJECT, "uuids": [uuid7() for _ in range(4)], "ats": [1, 2, 3, 4]}
        )
        first = _page(connection, MACHINES, [("limit", "2")], None)
        connection.execute(MACHINE_ROWS, {"project": PROJECT, "uuids": [uuid7() for _ in range(3)], "ats": [5, 6, 7]})
        second = _page(connection, MACHINES, [("limit", "2"), ("cursor", first["next"])], None)
        times = [item["spawned_at"][-15:-6] for item in first["items"] + second["items"]]
        assert [text.partition(".")[2][:6] for text in times] == ["000004", "000003", "000002", "000001"]
        assert second["next"] is None


@pytest.mark.parametrize("name", LISTINGS)
def test_every_listing_fits_its_table_with_every_filter(database: str, name: str) -> None:
    """Each statement is prepared and run: columns, filters, cursor and scope, alone and all together."""
    listing = LISTINGS[name]
    examples = {"cursor": _cursor_of(listing)}
    for filter_ in listing.filters:
        examples[filter_.name] = _example(filter_.expects, filter_.words)
    scopes = [None, ["webshop"], ["webshop", "bakery"], []] if listing.scope else [None]
    with psycopg.connect(database, autocommit=True) as connection:
        for scope in scopes:
            for one in examples:
                assert _page(connection, listing, [(one, examples[one])], scope)["items"] == []
            assert _page(connection, listing, list(examples.items()), scope) == {"items": [], "next": None}
        columns = connection.execute(f"SELECT {listing.item()} FROM {listing.source} LIMIT 0").description or []
        assert [column.name for column in columns] == [name for name, _ in listing.columns]


@pytest.mark.parametrize(
    ("name", "asked", "scope"),
    [
        ("projects", {}, None),
        ("machines", {}, None),
        ("machines", {}, ["webshop"]),
        ("machines", {"project": "webshop"}, None),
        ("checkpoints", {}, None),
        ("checkpoints", {}, ["webshop"]),
        ("checkpoints", {"project": "webshop"}, None),
        ("usage", {}, None),
        ("usage", {"project": "webshop"}, None),
        ("usage", {}, ["webshop"]),
        ("usage", {"machine": str(uuid7())}, None),
        ("events", {}, None),
        ("events", {}, ["webshop"]),
        ("events", {"id": str(uuid7())}, None),
        ("events", {"type": "MachineEnded"}, None),
        ("events", {"project": "webshop"}, None),
    ],
)
def test_a_page_deep_in_a_large_table_is_found_by_an_index(
    database: str, name: str, asked: dict[str, str], scope: list[str] | None
) -> None:
    """With sequential scans priced out the plan shows whether an index can give the rows at all, and in their order."""
    listing = LISTINGS[name]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS resource_usage_all PARTITION OF resource_usage DEFAULT")
        connection.execute("SET enable_seqscan = off")
        page = listing.page(_read(listing, [("cursor", _cursor_of(listing)), *asked.items()]), scope)
        rows = connection.execute("EXPLAIN " + page.statement, page.parameters).fetchall()
        plan = "\n".join(str(row[0]) for row in rows)
        assert "Index" in plan, plan
        below = plan[plan.index("Limit") :]
        assert "Seq Scan" not in below, plan


@pytest.mark.parametrize(
    "text", ["", "x", "bm9uZQ", "W10", "WzEsMl0", "WyJhIiwiYiJd", "WyJhIiwiYiIsImMiXQ", "=", "é", "W" * 500]
)
def test_a_cursor_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(HttpProblem) as refused:
        MACHINES.page(_read(MACHINES, [("cursor", text)]), None)
    assert (refused.value.status, refused.value.field) == (400, "cursor")


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_cursor_comes_back_as_it_was_written(key: str, tie: str) -> None:
    try:
        written = write_cursor(key, tie)
    except TypeError:
        assert not (key + tie).isprintable()  # half a surrogate pair is no text
        return
    assert read_cursor(written) == Cursor(key, tie)


def test_names_that_are_spelled_out_here_are_those_of_the_streams() -> None:
    from services.projector.writer import CHANNEL as SAID_ON  # noqa: PLC0415  # what is heard must be what is said

    assert (OUTPUT_STREAM, REJECTED_STREAM, CHANNEL) == (OUTPUT, REJECTED, SAID_ON)


def _read(listing: Listing, asked: list[tuple[str, str]]) -> dict[str, object]:
    return read_all({parameter.name: parameter for parameter in listing.parameters}, asked)


def _page(
    connection: psycopg.Connection, listing: Listing, asked: list[tuple[str, str]], scope: list[str] | None
) -> dict[str, Any]:
    page = listing.page(_read(listing, asked), scope)
    row = connection.execute(page.statement, page.parameters).fetchone()
    assert row is not None
    return json.loads(page_body(page, row))


def _cursor_of(listing: Listing) -> str:
    values = {"timestamptz": "2026-01-01T00:00:00+00:00", "uuid": str(UUID(int=7)), "bigint": "7"}
    return write_cursor(values[listing.key_type], values[listing.tie_type])


def _example(expects: str, words: tuple[str, ...]) -> str:
    if words:
        return words[0]
    for kind, value in (
        ("time", "2026-01-01T00:00:00Z"),
        ("slug", "webshop"),
        ("uuid", str(UUID(int=7))),
        ("decimal", "0.5"),
    ):
        if kind in expects:
            return value
    return "7"
