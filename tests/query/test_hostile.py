"""Input that no good client sends: always a clear refusal, never a 500, and the service goes on."""

import json
import random
from urllib.parse import quote

from services.query.http import Route
from tests.query.client import Answer
from tests.query.world import ADMIN, OPERATOR, SHOP, World

SEED = 20_261_120
ROUNDS_PER_ROUTE = 25
NASTY = (
    "", " ", "\0", "a\0b", "'", "';DROP TABLE projects;--", "1 OR 1=1", "%s", "%(scope)s", "{}", "{0}", "$1", "\\", "\r\n",
    "../../etc/passwd", "é", "\U0001f600", "\u202e", "null", "NaN", "Infinity", "-1", "0", "1", "1e999999999", "9" * 19,
    "9223372036854775807", "9223372036854775808", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999-23:59",
    "2026-01-01T00:00:00", "2026-13-01", "infinity", "-infinity", "ffffffff", "f" * 32, "webshop", "_hub", "*", ">",
    "a.b", "x" * 399, "x" * 401, "x" * 6_000, "0" * 4_000, "WyJhIiwiYiJd", "WyJpbmZpbml0eSIsIjciXQ", "[]", "true",
    "00000000-0000-0000-0000-000000000000", "{00000000-0000-0000-0000-000000000000}", "urn:uuid:" + "0" * 32,
)  # fmt: skip
BODIES = (
    b"", b"null", b"[]", b'"x"', b"1", b"{", b"\xff\xfe", b"{}" * 3, b"[" * 2_000, b'{"a":' * 500 + b"1" + b"}" * 500,
    b'{"name": null}', b'{"name": {"a": 1}}', b'{"name": "\\u0000"}', b'{"name": "\\ud800"}', b'{"project": ["webshop"]}',
    b'{"project": "webshop", "type": 7}', b'{"project": "webshop", "type": "MachineRequested", "body": []}',
    b'{"project_uuid": "' + b"f" * 500 + b'"}', b'{"machine_uuid": 17}', b'{"machine_uuid": "\\u0000"}',
    b'{"project": "webshop", "amount": NaN}', b'{"project": "webshop", "amount": -5, "unit": "CAD"}',
    b'{"project": "webshop", "goal": "\\u0000", "machine_type": "shell"}',
)  # fmt: skip


async def test_nothing_that_is_sent_breaks_any_route(world: World) -> None:
    """Each route of the table with odd paths, parameters and bodies. The seed is fixed; what failed is in the message."""
    await world.project(SHOP)
    await world.settled()
    chance = random.Random(SEED)
    for route in world.query.routes:
        if route.path.endswith(("/stream", "/logs")):
            continue
        for _ in range(ROUNDS_PER_ROUTE):
            target, body = _question(route, chance), chance.choice(BODIES)
            answer = await world.client(ADMIN).ask(route.method, target, body if route.method != "GET" else None)
            _is_well_formed(answer, f"{route.method} {target} {body!r}")
    assert (await world.client().get("/health")).status == 200
    assert len(await world.client().items("/api/v1/projects", at_least_seq=await world.bus.log.end())) == 1


def _question(route: Route, chance: random.Random) -> str:
    path = route.path.replace("{id}", quote(chance.choice(NASTY), safe=chance.choice(("", "/"))))
    names = [*route.declared, chance.choice(NASTY)]
    chosen = [(name, chance.choice(NASTY)) for name in chance.sample(names, chance.randint(0, min(3, len(names))))]
    # A token from far in the future is a wait, and tested elsewhere.
    given = [f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in chosen if name != "at_least_seq"]
    return f"{path}?{'&'.join(given)}" if given else path


def _is_well_formed(answer: Answer, what: str) -> None:
    assert answer.status < 500 or answer.code in {"unavailable", "behind"}, (what, answer.status, answer.body)
    if answer.status >= 400:
        problem = json.loads(answer.body)
        assert problem["status"] == answer.status, what
        assert {"type", "title", "detail", "code"} <= problem.keys(), what


BAD = (
    ("/api/v1/projects?nosuch=1", "nosuch"),
    ("/api/v1/projects?limit=5&limit=6", "limit"),
    ("/api/v1/projects?limit=0", "limit"),
    ("/api/v1/projects?limit=501", "limit"),
    ("/api/v1/projects?status=asleep", "status"),
    ("/api/v1/projects?greediness_min=NaN", "greediness_min"),
    ("/api/v1/machines?parent_checkpoint=x", "parent_checkpoint"),
    ("/api/v1/machines?spawned_after=2026-01-01", "spawned_after"),
    ("/api/v1/machines?at_least_seq=-1", "at_least_seq"),
    ("/api/v1/machines?project=%00", "project"),
    ("/api/v1/events?type=%00", "type"),
    ("/api/v1/events?after=1.5", "after"),
    ("/api/v1/checkpoints/tree", "project"),
    ("/api/v1/checkpoints/diff?new=ffff", "old"),
    ("/api/v1/status?x=1", "x"),
    ("/api/v1/events/types?x=1", "x"),
    ("/api/v1/resources/usage/summary?by=colour", "by"),
    ("/api/v1/events/stream?x=1", "x"),
    ("/api/v1/machines/ffffffff/logs?follow=2", "follow"),
)


async def test_a_bad_parameter_is_named_with_what_it_should_be(world: World) -> None:
    for target, field in BAD:
        answer = await world.client(OPERATOR).get(target)
        assert (answer.status, answer.code, answer.json["field"]) == (400, "bad_parameter", field), target
        assert answer.json["limit"]


async def test_what_is_no_http_ends_only_its_own_connection(world: World) -> None:
    for raw in ("GET", "G\0T", "GET /a b"):
        try:
            answer = await world.client().ask(raw, "/api/v1/projects?" + "x" * 70_000)
            assert 400 <= answer.status < 500
        except (ValueError, EOFError):
            pass  # cut off without a word: there was nothing to answer
    assert (await world.client().get("/health")).status == 200
    long = await world.client().get("/api/v1/projects?name=" + "x" * 9_000)
    assert long.status == 414
