"""Commands by HTTP: they go through the door, and come back with what the door said."""

from uuid import UUID, uuid4

import pytest

from cli.stack.nats import EmbeddedNats
from events import address
from events.ids import HUB, project_uuid
from services.query.door import BusDoor
from services.query.problems import HttpProblem
from tests.query.world import ADMIN, OPERATOR, SHOP, World, a_world


async def test_a_command_is_an_event_with_the_keys_name_and_its_seq_is_a_consistency_token(world: World) -> None:
    created = await world.client(OPERATOR).post("/api/v1/projects", {"name": SHOP, "description": "d"})
    assert (created.status, created.json["uuid"]) == (202, SHOP)
    assert created.headers["autovibe-seq"] == str(created.json["seq"])
    [recorded] = (await world.bus.log.load(address.project(SHOP))).events
    assert recorded.seq == created.json["seq"]
    assert recorded.envelope.cause.actor == f"api:{OPERATOR}"
    found = await world.client(OPERATOR).get(f"/api/v1/projects/{SHOP}", at_least_seq=created.json["seq"])
    assert found.json["description"] == "d"


async def test_a_machine_is_requested_by_slug_or_uuid_and_by_goal_or_prompt(world: World) -> None:
    await world.project(SHOP)
    await world.settled()
    client = world.client(OPERATOR)
    first = await client.post("/api/v1/machines", {"project": SHOP, "machine_type": "shell", "goal": "ls"})
    second = await client.post(
        "/api/v1/machines", {"project_uuid": str(project_uuid(SHOP)), "machine_type": "shell", "prompt": "ls -l"}
    )
    for answer, goal in ((first, "ls"), (second, "ls -l")):
        assert answer.status == 202, answer.body
        # So new that only the log knows it: it can be stopped at once all the same.
        stopped = await client.post(f"/api/v1/machines/{answer.json['uuid']}/stop", {"reason": "enough"})
        assert stopped.status == 202, stopped.body
        found = await client.get(f"/api/v1/machines/{answer.json['uuid']}", at_least_seq=answer.json["seq"])
        assert found.json["original_prompt"] == goal


async def test_a_repeated_request_with_its_key_is_the_same_machine(world: World) -> None:
    await world.project(SHOP)
    body = {"project": SHOP, "machine_type": "shell", "goal": "ls"}
    once = await world.client(OPERATOR).post("/api/v1/machines", body, {"Idempotency-Key": "k1"})
    twice = await world.client(OPERATOR).post("/api/v1/machines", body, {"Idempotency-Key": "k1"})
    assert (once.status, twice.status) == (202, 202)
    assert {**once.json, "duplicate": True} == twice.json
    other = await world.client(ADMIN).post("/api/v1/machines", body, {"Idempotency-Key": "k1"})
    assert other.json["uuid"] != once.json["uuid"]
    changed = await world.client(OPERATOR).post("/api/v1/machines", {**body, "goal": "rm"}, {"Idempotency-Key": "k1"})
    assert (changed.status, changed.code) == (409, "id_reused")
    long = await world.client(OPERATOR).post("/api/v1/machines", body, {"Idempotency-Key": "k" * 201})
    assert (long.status, long.code) == (400, "bad_parameter")


async def test_budgets_checkpoints_and_projects_are_commanded_too(world: World) -> None:
    genesis = await world.project(SHOP)
    machine_id = await world.machine(SHOP)
    await world.settled()
    admin, v1 = world.client(ADMIN), "/api/v1"
    money = {"amount": "5", "unit": "CAD"}
    said = [
        (await admin.post(f"{v1}/resources/budgets", {"project": SHOP, **money}), f"{SHOP}/budget/{SHOP}"),
        (await admin.post(f"{v1}/resources/budgets", {"project": HUB, **money}), f"{HUB}/budget/{HUB}"),
        (
            await admin.post(
                f"{v1}/resources/budgets", {"machine_uuid": str(machine_id)[:12], "project": SHOP, **money}
            ),
            f"{SHOP}/budget/{machine_id}",
        ),
        (await admin.post(f"{v1}/checkpoints/{genesis}/pin", {}), f"{SHOP}/checkpoint/{genesis}"),
        (await admin.post(f"{v1}/checkpoints/{genesis}/unpin", {}), f"{SHOP}/checkpoint/{genesis}"),
        (
            await admin.post(f"{v1}/projects/{SHOP}", {"current_checkpoint_id": str(genesis)}, method="PATCH"),
            f"{SHOP}/project/{SHOP}",
        ),
        (
            await admin.post(f"{v1}/machines/{machine_id}/restore", {"checkpoint_id": str(genesis)}),
            f"{SHOP}/machine/{machine_id}",
        ),
        (await admin.post(f"{v1}/projects/{project_uuid(SHOP)}/archive", {"reason": "done"}), f"{SHOP}/project/{SHOP}"),
    ]
    for answer, where in said:
        assert answer.status == 202, answer.body
        recorded = await world.bus.log.event(answer.json["seq"])
        assert recorded is not None
        assert str(recorded.envelope.address) == where
    asked = await admin.post(f"{v1}/checkpoints", {"machine_uuid": str(machine_id)})
    assert (asked.status, asked.code) == (409, "project_archived")


async def test_any_event_of_the_door_can_be_said_and_no_other(world: World) -> None:
    client, v1 = world.client(OPERATOR), "/api/v1/events"
    created = await client.post(v1, {"project": SHOP, "type": "ProjectCreated", "body": {}})
    assert (created.status, created.json["uuid"]) == (202, SHOP)
    machine = await client.post(
        v1, {"project": SHOP, "type": "MachineRequested", "body": {"goal": "x", "machine_type": "shell"}}
    )
    assert (machine.status, str(UUID(machine.json["uuid"]))) == (202, machine.json["uuid"])
    unknown = await client.post(v1, {"project": SHOP, "type": "MachineEnded", "body": {"outcome": "lost"}})
    assert (unknown.status, unknown.code) == (422, "unknown_type")
    secret = await client.post(v1, {"project": SHOP, "type": "CredentialRequested", "body": {"kind": "operator"}})
    assert (secret.status, secret.code) == (403, "not_allowed")


async def test_the_doors_refusal_comes_through_whole(world: World) -> None:
    client = world.client(ADMIN)
    absent = await client.post("/api/v1/machines", {"project": "nothing", "machine_type": "shell", "goal": "x"})
    assert (absent.status, absent.code) == (404, "no_such_project")
    assert absent.json["value"] == "nothing"
    assert absent.json["remedy"]
    await world.project(SHOP)
    again = await client.post("/api/v1/projects", {"name": SHOP})
    assert (again.status, again.code) == (409, "conflict")
    bad = await client.post("/api/v1/machines", {"project": SHOP, "machine_type": "shell", "goal": "x", "colour": 1})
    assert (bad.status, bad.json["field"]) == (422, "colour")
    large = await client.post("/api/v1/machines", {"project": SHOP, "machine_type": "shell", "goal": "x" * 300_000})
    assert (large.status, large.code) == (413, "too_large")
    flood = await client.post("/api/v1/machines", b'{"goal": "' + b"x" * 1_100_000)
    assert (flood.status, flood.code) == (413, "too_large")


@pytest.mark.parametrize(
    "identity", ["a b", "a.b", "*", ">", "", "a\r\nPUB av.x 0\r\n\r\n", "é", "x" * 200, "\x00"], ids=repr
)
async def test_no_line_of_the_protocol_can_be_smuggled_in(world: World, identity: str) -> None:
    before = await world.bus.log.end()
    body: dict[str, object] = {"project": SHOP, "id": identity or " ", "type": "ProjectUpdated", "body": {}}
    for changed in (body, {**body, "id": SHOP, "type": identity or " "}):
        answer = await world.client(OPERATOR).post("/api/v1/events", changed)
        assert answer.status == 422, answer.body
    named = await world.client(ADMIN).post("/api/v1/projects", {"name": identity or " "})
    assert (named.status, named.code) == (422, "bad_subject")
    assert await world.bus.log.end() == before


async def test_a_name_that_is_no_header_value_is_written_as_one(world: World) -> None:
    await world.project(SHOP)
    door = BusDoor(world.bus)
    answer = await door.ask(
        address.project(SHOP), "ProjectUpdated", b"{}", client_id="a\r\nb", actor="api:Zoë\r\nce-actor: budget"
    )
    recorded = await world.bus.log.event(int(str(answer["seq"])))
    assert recorded is not None
    actor = recorded.envelope.cause.actor
    assert actor.startswith("api:Zo")
    assert actor.isprintable()


async def test_a_door_that_does_not_answer_is_said_to_be_away(nats_server: EmbeddedNats, database: str) -> None:
    async with a_world(nats_server.url, database) as world:
        answer = await world.client(ADMIN).post("/api/v1/credentials", {"kind": "api_key", "name": "x"})
        assert (answer.status, answer.code) == (503, "unavailable")
        with pytest.raises(HttpProblem) as refused:
            await BusDoor(world.bus, deadline_s=0.2).ask(
                address.credential(HUB, uuid4()), "CredentialRequested", b"{}", client_id="x", actor="api:x"
            )
        assert refused.value.status == 503
