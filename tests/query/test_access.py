"""Who may do what, and that nobody learns anything of what is not theirs."""

from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from events.fresh import now, uuid7
from events.ids import HUB, project_uuid
from events.words import Role
from tests.harness import eventually
from tests.query.client import Answer, Client
from tests.query.world import ADMIN, OPERATOR, OTHERS, SHOP, VIEWER, World

SECRET = "bakery-secret"


async def test_without_a_good_key_only_health_answers(world: World) -> None:
    for client in (world.client(""), world.client("no-such-key"), world.client(VIEWER + "x")):
        for route in world.query.routes:
            answer = await client.ask(route.method, route.path.replace("{id}", "0" * 36), b"{}")
            assert (answer.status, answer.code) == (401, "unauthenticated"), route.path
            assert answer.headers["www-authenticate"] == "Bearer"
    basic = await world.client("").get("/api/v1/projects", {"Authorization": f"Basic {ADMIN}"})
    assert basic.status == 401


async def test_a_key_ends_when_it_expires_and_when_it_is_revoked(world: World) -> None:
    await world.key("short", Role.ADMIN, expires_at=now() + timedelta(seconds=3))
    lasting = await world.key("lasting", Role.ADMIN)
    await world.key("late", Role.ADMIN, expires_at=now() - timedelta(seconds=1))

    async def answers(key: str, status: int) -> bool:
        return (await world.client(key).get("/api/v1/events/types")).status == status

    await eventually(lambda: answers("lasting", 200))
    assert await answers("late", 401)
    await world.revoke(lasting)
    await eventually(lambda: answers("lasting", 401))
    await eventually(lambda: answers("short", 401))


async def test_every_route_asks_for_its_role_and_scope(world: World) -> None:
    """The table says who may; this says that the table is obeyed."""
    await world.key("scoped-admin", Role.ADMIN, [SHOP])
    await world.key("lone-viewer", Role.VIEWER)

    async def known() -> bool:
        return (await world.client("lone-viewer").get("/api/v1/events/types")).status == 200

    await eventually(known)
    ranks = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}
    for key, role, everything in ((VIEWER, Role.VIEWER, False), (OPERATOR, Role.OPERATOR, False),
                                  ("scoped-admin", Role.ADMIN, False), (ADMIN, Role.ADMIN, True)):  # fmt: skip
        for route in world.query.routes:
            if route.path.endswith(("/stream", "/logs")):
                continue
            answer = await world.client(key).ask(route.method, route.path.replace("{id}", "f" * 32), b"[]")
            allowed = ranks[role] >= ranks[route.role] and (everything or not route.everything)
            assert (answer.status == 403) is not allowed, (key, route.method, route.path, answer.body)
            assert answer.status < 500, (route.path, answer.body)
    assert await world.client("lone-viewer").items("/api/v1/projects") == []
    assert await world.client("lone-viewer").items("/api/v1/events") == []
    assert (await world.client("lone-viewer").get("/api/v1/events/stream")).status == 403


async def test_a_key_of_one_project_cannot_learn_anything_of_another(world: World) -> None:
    """Every route, asked for another's things, answers as it does for things that do not exist."""
    await world.project(SHOP)
    hidden = await _bakery(world)
    await world.settled()
    absent = {"project": "nothing", "machine": uuid7(), "checkpoint": uuid7(), "event": str(uuid7()), "seq": "9999999"}
    for key in (VIEWER, OPERATOR):
        client = world.client(key)
        for method, path, body in _probes(hidden):
            told = await client.ask(method, path, body)
            mirrored_path, mirrored_body = (
                _swapped(path, hidden, absent),
                _swapped((body or b"").decode(), hidden, absent),
            )
            nothing = await client.ask(method, mirrored_path, mirrored_body.encode() if body else None)
            assert told.status == nothing.status, (method, path, told.body, nothing.body)
            assert _stripped(told, path, body) == _stripped(nothing, mirrored_path, mirrored_body.encode()), path
        await _reads_nothing_of(client, hidden)


async def _bakery(world: World) -> dict[str, object]:
    checkpoint = await world.project(OTHERS)
    machine = await world.machine(OTHERS, SECRET, ended=True)
    events = await world.client().items(
        "/api/v1/events", at_least_seq=world.seq, project=OTHERS, type="MachineRequested"
    )
    return {
        "project": OTHERS, "machine": machine, "checkpoint": checkpoint, "event": events[0]["id"],
        "seq": str(events[0]["seq"]),
    }  # fmt: skip


def _probes(hidden: dict[str, object]) -> list[tuple[str, str, bytes | None]]:
    project, machine, checkpoint = hidden["project"], hidden["machine"], hidden["checkpoint"]
    v1 = "/api/v1"
    return [
        ("GET", f"{v1}/projects/{project}", None),
        ("GET", f"{v1}/projects/{project_uuid(OTHERS)}", None),
        ("PATCH", f"{v1}/projects/{project}", b"{}"),
        ("PATCH", f"{v1}/projects/{project_uuid(OTHERS)}", b"{}"),
        ("POST", f"{v1}/projects/{project}/archive", b"{}"),
        ("POST", f"{v1}/projects", b'{"name": "%s"}' % str(project).encode()),
        ("GET", f"{v1}/machines/{machine}", None),
        ("GET", f"{v1}/machines/{str(machine)[:8]}", None),
        ("GET", f"{v1}/machines/{machine}/logs", None),
        ("POST", f"{v1}/machines/{machine}/stop", b"{}"),
        ("POST", f"{v1}/machines/{machine}/restore", b"{}"),
        ("POST", f"{v1}/machines", b'{"project": "%s", "goal": "x", "machine_type": "shell"}' % str(project).encode()),
        ("POST", f"{v1}/machines", b'{"project_uuid": "%s", "prompt": "x"}' % str(project_uuid(OTHERS)).encode()),
        ("GET", f"{v1}/checkpoints/{checkpoint}", None),
        ("POST", f"{v1}/checkpoints/{checkpoint}/pin", b"{}"),
        ("POST", f"{v1}/checkpoints/{checkpoint}/unpin", b"{}"),
        ("POST", f"{v1}/checkpoints", b'{"machine_uuid": "%s"}' % str(machine).encode()),
        ("GET", f"{v1}/checkpoints/tree?project={project}", None),
        ("GET", f"{v1}/checkpoints/diff?old={checkpoint}", None),
        ("POST", f"{v1}/resources/budgets", b'{"project": "%s", "amount": "1", "unit": "CAD"}' % str(project).encode()),
        ("POST", f"{v1}/resources/budgets", b'{"machine_uuid": "%s", "amount": "1"}' % str(machine).encode()),
        ("GET", f"{v1}/events/{hidden['event']}", None),
        ("GET", f"{v1}/events/{hidden['seq']}", None),
        ("GET", f"{v1}/events/stream?project={project}", None),
        ("GET", f"{v1}/events/stream?project={project}&machine={machine}", None),
        ("GET", f"{v1}/events/rejected?project={project}", None),
        ("POST", f"{v1}/events", b'{"project": "%s", "type": "MachineStopRequested"}' % str(project).encode()),
    ]


async def _reads_nothing_of(client: Client, hidden: dict[str, object]) -> None:
    """No listing or report shows a row of the other project, whatever is asked for."""
    project, machine = hidden["project"], hidden["machine"]
    for path in ("/projects", "/machines", "/checkpoints", "/resources/usage", "/resources/budgets", "/events",
                 "/resources/usage/summary", "/reports/budgets", "/reports/outcomes", "/reports/cost-by-machine",
                 "/events/rejected", "/status"):  # fmt: skip
        answer = await client.get("/api/v1" + path)
        assert answer.status == 200
        assert not any(str(value).encode() in answer.body for value in (OTHERS, project_uuid(OTHERS), machine, SECRET))
    for path in ("/machines", "/checkpoints", "/resources/usage", "/resources/budgets", "/events"):
        for name in (project, project_uuid(OTHERS), HUB, project_uuid(HUB)):
            assert await client.items("/api/v1" + path, project=name) == []
    assert await client.items("/api/v1/checkpoints", machine=machine) == []
    assert await client.items("/api/v1/resources/usage", machine=machine) == []
    assert await client.items("/api/v1/events", id=machine) == []


def _swapped(text: str, hidden: Mapping[str, object], absent: Mapping[str, object]) -> str:
    if text.endswith(f"/{hidden['seq']}"):
        return text.replace(f"/{hidden['seq']}", f"/{absent['seq']}")
    text = text.replace(str(project_uuid(OTHERS)), str(project_uuid("nothing")))
    for name, value in ((name, value) for name, value in hidden.items() if name != "seq"):
        text = text.replace(str(value), str(absent[name]))
        if isinstance(value, UUID):
            text = text.replace(str(value)[:8], str(absent[name])[:8])
    return text


def _stripped(answer: Answer, path: str, body: bytes | None) -> bytes:
    """The answer without the words of the question."""
    text = answer.body.decode()
    for word in sorted({*path.replace("?", "/").replace("=", "/").replace("&", "/").split("/"),
                        *(body or b"").decode().split('"')}, key=len, reverse=True):  # fmt: skip
        if len(word) > 5 or word.isdigit():
            text = text.replace(word, "*")
    return text.encode()
