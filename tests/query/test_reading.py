"""What can be read, and that it is what was said."""

import pytest

from cli.stack.nats import EmbeddedNats
from events import address
from events.ids import project_uuid
from events.machine import MachineRequested
from events.project import ProjectUpdated
from events.words import MachineType
from tests.query.world import OTHERS, SHOP, VIEWER, World, a_world


async def test_health_needs_no_key_and_says_what_the_hub_is(world: World) -> None:
    answer = await world.client("").get("/health")
    assert answer.status == 200
    assert answer.json["status"] == "healthy"
    assert answer.json["service"] == "autovibe-hub"
    assert answer.json["version"]


async def test_a_project_is_found_by_slug_and_by_uuid(world: World) -> None:
    genesis = await world.project(SHOP)
    await world.settled()
    by_slug = await world.client().get(f"/api/v1/projects/{SHOP}")
    by_uuid = await world.client().get(f"/api/v1/projects/{project_uuid(SHOP)}")
    assert by_slug.json == by_uuid.json
    assert by_slug.json["current_checkpoint_uuid"] == str(genesis)
    assert by_slug.json["greediness"] == "0.50"


async def test_an_answer_contains_at_least_the_event_that_was_asked_for(world: World) -> None:
    await world.project(SHOP)
    for count in range(20):
        seq = await world.say(address.project(SHOP), ProjectUpdated(description=f"version {count}"))
        answer = await world.client().get(f"/api/v1/projects/{SHOP}", at_least_seq=seq)
        assert answer.json["description"] == f"version {count}"


async def test_what_does_not_come_in_time_is_refused_not_answered_stale(
    nats_server: EmbeddedNats, database: str
) -> None:
    async with a_world(nats_server.url, database, query_wait_s=0.1) as world:
        answer = await world.client().get("/api/v1/projects", at_least_seq=10_000_000)
        assert (answer.status, answer.code) == (503, "behind")
        assert answer.headers["retry-after"] == "1"


async def test_a_machine_is_found_by_a_unique_prefix_and_two_are_a_conflict(world: World) -> None:
    await world.project(SHOP)
    machine_id = await world.machine(SHOP, "ls")
    await world.settled()
    found = await world.client(VIEWER).get(f"/api/v1/machines/{str(machine_id)[:13]}")
    assert (found.status, found.json["uuid"], found.json["project"]) == (200, str(machine_id), SHOP)
    assert found.json["original_prompt"] == "ls"
    alike = str(machine_id)[:-1] + ("0" if str(machine_id)[-1] != "0" else "1")
    await world.say(address.machine(SHOP, alike), MachineRequested(goal="ls", machine_type=MachineType.SHELL))
    await world.settled()
    twice = await world.client(VIEWER).get(f"/api/v1/machines/{str(machine_id)[:-1]}")
    assert (twice.status, twice.code) == (409, "ambiguous")
    assert (await world.client(VIEWER).get(f"/api/v1/machines/{machine_id}")).status == 200


async def test_events_are_listed_newest_first_and_each_is_found_by_seq_and_by_id(world: World) -> None:
    await world.project(SHOP)
    end = await world.settled()
    listed = await world.client().items("/api/v1/events", limit=500)
    assert [event["seq"] for event in listed] == list(range(end, 0, -1))
    newest = listed[0]
    assert (await world.client().get(f"/api/v1/events/{newest['seq']}")).json == newest
    assert (await world.client().get(f"/api/v1/events/{newest['id']}")).json == newest


async def test_money_leaves_as_exact_decimal_strings(world: World) -> None:
    await world.project(SHOP)
    machine_id = await world.machine(SHOP, ended=True)
    await world.settled()
    [usage] = await world.client().items("/api/v1/resources/usage", machine=machine_id)
    assert (usage["cost_cad"], usage["amount"]) == ("0.123456789", "1.500000000")
    assert await world.client().items("/api/v1/resources/usage/summary", by="model") == [], "no model was called"
    for by in ("project", "machine", "type", "agent", "day"):
        [line] = await world.client().items("/api/v1/resources/usage/summary", by=by)
        assert (line["cost_cad"], line["records"]) == ("0.123456789", 1)
        [same] = await world.client().items(f"/api/v1/reports/cost-by-{by}")
        assert same == line


async def test_the_tree_has_parents_before_children_and_knows_the_current_one(world: World) -> None:
    genesis = await world.project(SHOP)
    machine_id = await world.machine(SHOP, "grow", ended=True)
    child = address.checkpoint(SHOP, machine_id)
    await world.checkpoint(SHOP, machine_id, parent=genesis, machine=machine_id)
    await world.settled()
    root, leaf = (await world.client(VIEWER).get("/api/v1/checkpoints/tree", project=SHOP)).json
    assert (root["uuid"], root["current"], root["goal"]) == (str(genesis), True, None)
    assert (leaf["uuid"], leaf["parent_checkpoint_uuid"]) == (child.id, str(genesis))
    assert (leaf["goal"], leaf["outcome"], leaf["cost_cad"], leaf["current"]) == (
        "grow", "succeeded", "0.123456789", False,
    )  # fmt: skip


async def test_status_counts_what_the_caller_may_see(world: World) -> None:
    await world.project(SHOP)
    await world.project(OTHERS)
    await world.machine(OTHERS)
    await world.settled()
    assert (await world.client().get("/api/v1/status")).json["machines"] == {"requested": 1}
    mine = (await world.client(VIEWER).get("/api/v1/status")).json
    assert (mine["machines"], mine["projects"]) == ({}, 1)


async def test_what_has_not_changed_is_told_without_a_body(world: World) -> None:
    await world.project(SHOP)
    await world.settled()
    first = await world.client().get("/api/v1/projects")
    again = await world.client().get("/api/v1/projects", {"If-None-Match": first.headers["etag"]})
    assert again.status == 304
    seq = await world.say(address.project(SHOP), ProjectUpdated(description="new"))
    await world.client().get("/api/v1/projects", at_least_seq=seq)
    changed = await world.client().get("/api/v1/projects", {"If-None-Match": first.headers["etag"]})
    assert changed.status == 200
    assert changed.json["items"][0]["description"] == "new"


async def test_metrics_count_answers_by_route_and_machines_that_live(world: World) -> None:
    await world.client().get("/api/v1/machines/0123456789")
    text = (await world.client().get("/metrics")).body.decode()
    assert 'autovibe_api_duration_seconds_count{method="GET",route="/api/v1/machines/{id}",status="404"} 1.0' in text
    assert "autovibe_machines_active 0.0" in text
    assert "# TYPE autovibe_resource_usage_total counter" in text
    assert "0123456789" not in text


@pytest.mark.parametrize("path", ["/", "/api/v1", "/api/v1/machine", "/api/v1/reports/none", "/api/v1/machines/a/b"])
async def test_what_there_is_not_is_a_problem_document(world: World, path: str) -> None:
    answer = await world.client().get(path)
    assert (answer.status, answer.code) == (404, "not_found")
    assert answer.headers["content-type"].startswith("application/problem+json")


async def test_a_wrong_method_is_told_the_right_ones(world: World) -> None:
    answer = await world.client().ask("PUT", "/api/v1/projects", b"{}")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, POST")
    assert (await world.client().ask("HEAD", "/api/v1/projects")).status == 200
