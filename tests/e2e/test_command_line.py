"""Every command, as a user types it, against a hub that runs."""

import json
import tarfile
from pathlib import Path

import pytest

from tests.harness.hub import RunningHub

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A user's own directory."""
    place = tmp_path / "source"
    place.mkdir()
    (place / "README").write_text("one\n")
    return place


async def created(hub: RunningHub, name: str, source: Path, *more: str) -> None:
    await hub.ok("project", "create", name, "--from", str(source), "--budget", "5CAD", "--greediness", "0.7", *more)


async def ran(hub: RunningHub, project: str, goal: str, *more: str) -> dict[str, object]:
    """Run a goal to its end and return the machine as the read model has it."""
    done = await hub.ok("run", project, goal, "--json", *more)
    return done.json[-1]["machine"]  # type: ignore[return-value]  # the last document of a followed run


async def test_a_goal_changes_the_workspace_and_the_next_one_starts_there(hub: RunningHub, source: Path) -> None:
    await created(hub, "chain", source)
    first = await ran(hub, "chain", "echo two >> README")
    second = await ran(hub, "chain", "cat README; test $(wc -l < README) = 2")
    assert first["outcome"] == second["outcome"] == "succeeded"
    assert second["parent_checkpoint_uuid"] == first["last_checkpoint_uuid"]
    logs = await hub.ok("machine", "logs", str(second["uuid"]))
    assert logs.out.splitlines() == ["one", "two"]


async def test_the_exit_code_of_run_is_the_outcome_of_the_machine(hub: RunningHub, source: Path) -> None:
    await created(hub, "outcomes", source)
    failed = await hub.run("run", "outcomes", "echo broken >&2; exit 7")
    assert (failed.exit_code, failed.out) == (1, "broken\n")
    refused = await hub.run("run", "outcomes", "true", "--budget", "50CAD")
    assert refused.exit_code == 4
    assert "of 5 CAD" in refused.err
    late = await hub.run("run", "outcomes", "sleep 60", "--deadline", "1s")
    assert late.exit_code == 124


async def test_a_branch_starts_elsewhere_and_leaves_the_trunk_alone(hub: RunningHub, source: Path) -> None:
    await created(hub, "branches", source)
    start = (await hub.ok("project", "show", "branches", "--json")).only()["current_checkpoint_uuid"]
    trunk = await ran(hub, "branches", "echo trunk > t")
    branch = await ran(hub, "branches", "test ! -e t; echo branch > b", "--from", str(start)[:30])
    now = (await hub.ok("project", "show", "branches", "--json")).only()
    assert now["current_checkpoint_uuid"] == trunk["last_checkpoint_uuid"]
    drawn = await hub.ok("checkpoint", "tree", "branches")
    assert str(branch["last_checkpoint_uuid"]) in drawn.out
    assert drawn.out.count("│") >= 1
    await hub.ok("checkpoint", "restore", str(branch["last_checkpoint_uuid"]))
    onwards = await ran(hub, "branches", "test -e b; test ! -e t")
    assert onwards["parent_checkpoint_uuid"] == branch["last_checkpoint_uuid"]


async def test_files_environment_and_limits_reach_the_machine(hub: RunningHub, source: Path, tmp_path: Path) -> None:
    await created(hub, "given", source)
    text, binary = tmp_path / "text", tmp_path / "binary"
    text.write_text("from outside\n")
    binary.write_bytes(bytes(range(256)) * 500)
    goal = 'cat in/text; wc -c < in/bin; echo "$COLOUR"; ulimit -f; head -c 3000000 /dev/zero > big || echo "no room"'
    done = await hub.ok(
        *("run", "given", goal, "--file", f"in/text={text}", "--file", f"in/bin={binary}", "--env", "COLOUR=blue"),
        *("--cpu", "0.5", "--memory", "64M", "--disk", "2M", "--processes", "32", "--deadline", "30s"),
    )
    lines = done.out.splitlines()
    assert lines[:3] == ["from outside", "128000", "blue"]
    assert "no room" in done.out


async def test_what_cannot_be_injected_is_refused_before_anything_runs(
    hub: RunningHub, source: Path, tmp_path: Path
) -> None:
    await created(hub, "injections", source)
    text = tmp_path / "text"
    text.write_text("x")
    outside = await hub.run("run", "injections", "true", "--file", f"../escape={text}")
    assert outside.exit_code == 4
    assert "not a relative file path inside the workspace" in outside.err
    missing = await hub.run("run", "injections", "true", "--file", f"a={tmp_path / 'nothing'}")
    assert missing.exit_code == 2
    assert (await hub.ok("machine", "ls", "--project", "injections", "--json")).out == ""


async def test_a_detached_machine_is_captured_stopped_and_shown(hub: RunningHub, source: Path) -> None:
    await created(hub, "detached", source)
    goal = "echo started; echo half > half; sleep 120"
    machine = (await hub.ok("run", "detached", goal, "--detach")).out.strip()
    follow = await hub.run("events", "tail", "--machine", machine, "--json", "-n", "50")
    assert '"MachineRequested"' in follow.out
    taken = (await hub.ok("checkpoint", "take", machine, "-m", "half-way")).out.strip()
    shown = (await hub.ok("checkpoint", "show", taken, "--json")).only()
    assert (shown["checkpoint_type"], shown["description"]) == ("manual", "half-way")
    await hub.ok("machine", "stop", machine[:30], "--reason", "enough")
    logs = await hub.ok("machine", "logs", machine, "--follow")
    assert logs.out.startswith("started")
    ended = (await hub.ok("machine", "show", machine, "--json")).only()
    assert (ended["status"], ended["outcome"]) == ("terminated", "cancelled")


async def test_checkpoints_are_compared_and_exported(hub: RunningHub, source: Path, tmp_path: Path) -> None:
    await created(hub, "compared", source)
    machine = await ran(hub, "compared", "echo two >> README; mkdir d; echo new > d/new; ln -s new d/link")
    final = str(machine["last_checkpoint_uuid"])
    diff = (await hub.ok("checkpoint", "diff", str(machine["parent_checkpoint_uuid"]), final, "--json")).only()
    changes = {(change["kind"], change["path"]) for change in diff["changes"]}  # type: ignore[index, union-attr]
    assert {("changed", "workspace/README"), ("added", "workspace/d/new")} <= changes
    assert "+two" in str(diff["text"])
    target = tmp_path / "out"
    await hub.ok("checkpoint", "export", final, "--to", str(target))
    assert (target / "README").read_text() == "one\ntwo\n"
    assert (target / "d" / "link").readlink() == Path("new")
    await hub.ok("checkpoint", "export", final, "--to", str(tmp_path / "out.tar"))
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert "workspace/d/new" in tar.getnames()
    again = await hub.run("checkpoint", "export", final, "--to", str(target))
    assert again.exit_code == 2
    await hub.ok("checkpoint", "pin", final)
    assert (await hub.ok("checkpoint", "ls", "--project", "compared", "--json")).json[0]["uuid"] == final


async def test_budgets_are_set_shown_and_used(hub: RunningHub, source: Path) -> None:
    await created(hub, "spending", source)
    await hub.ok(
        "budget", "set", "spending", "90", "--resource", "time", "--period", "daily", "--time-zone", "America/Toronto"
    )
    nonsense = await hub.run("budget", "set", "spending", "5", "--time-zone", "Mars/Olympus")
    assert nonsense.exit_code == 4
    await ran(hub, "spending", "true")
    accounts = (await hub.ok("budget", "show", "spending", "--json")).json
    by_resource = {(a["resource_type"], a["budget_period"]): a for a in accounts}
    assert by_resource["money", "total"]["allocated_amount"] == "5.000000000"
    assert by_resource["time", "daily"]["unit"] == "minutes"
    used = (await hub.ok("usage", "--by", "machine", "--project", "spending", "--json")).json
    assert {line["resource_type"] for line in used} == {"time", "cpu", "memory", "storage"}
    assert "ACCOUNT" in (await hub.ok("budget", "show", "spending")).out
    assert "COST" in (await hub.ok("usage", "--since", "1h")).out


async def test_a_budget_of_nothing_admits_nothing(hub: RunningHub, source: Path) -> None:
    await created(hub, "broke", source)
    await hub.ok("budget", "set", "broke", "0CAD")
    assert (await hub.run("run", "broke", "true")).exit_code == 4


async def test_events_are_listed_shown_and_published(hub: RunningHub, source: Path) -> None:
    await created(hub, "told", source)
    body = json.dumps({"goal": "true", "machine_type": "shell"})
    said = (await hub.ok("events", "publish", "MachineRequested", body, "--project", "told", "--json")).only()
    event = (await hub.ok("events", "show", str(said["seq"]), "--json")).only()
    assert (event["type"], event["aggregate_id"], event["body"]["goal"]) == ("MachineRequested", said["uuid"], "true")  # type: ignore[index]
    assert "BudgetAllocated" in (await hub.ok("events", "tail", "--project", "told", "-n", "100")).out
    assert "MachineRequested" in (await hub.ok("events", "types")).out
    unknown = await hub.run("events", "publish", "NothingKnown", "{}", "--project", "told")
    assert unknown.exit_code == 4
    wrong = await hub.run("events", "publish", "MachineRequested", '{"goal": 5}', "--project", "told", "--json")
    assert wrong.exit_code == 4
    assert json.loads(wrong.err)["field"]
    assert (await hub.ok("events", "dead", "--json")).out == ""
    assert (await hub.ok("events", "rejected", "--project", "told", "--json")).exit_code == 0


async def test_what_does_not_exist_is_said_so(hub: RunningHub) -> None:
    for arguments in (
        ("project", "show", "nothing"),
        ("machine", "show", "01234567"),
        ("checkpoint", "show", "01234567"),
        ("events", "show", "999999999"),
        ("run", "nothing", "true"),
    ):
        done = await hub.run(*arguments)
        assert done.exit_code == 3, f"{arguments}: {done.exit_code} {done.err}"
        assert "Traceback" not in done.err


async def test_bad_usage_is_explained(hub: RunningHub, tmp_path: Path) -> None:
    for arguments in (
        ("project", "create", "x", "--from", str(tmp_path / "nothing")),
        ("project", "create", "x", "--budget", "much"),
        ("run", "x", "true", "--memory", "little"),
        ("run",),
        ("nonsense",),
    ):
        done = await hub.run(*arguments)
        assert done.exit_code == 2, f"{arguments}: {done.exit_code} {done.err}"
        assert done.err
    refused = await hub.run("project", "create", "Not A Slug")
    assert refused.exit_code == 4
    assert "Not A Slug" in refused.err


async def test_the_tables_can_be_made_anew_and_proved(hub: RunningHub) -> None:
    assert (await hub.ok("status", "--json")).only()["log"]
    status = (await hub.ok("projector", "status", "--json")).only()
    assert status["state"] == "running"
    rebuilt = (await hub.ok("projector", "rebuild", "--json")).only()
    assert rebuilt["swapped"]
    assert (await hub.ok("verify", "--json")).only()["ok"]
    assert "every table equals" in (await hub.ok("verify")).out
    assert (await hub.ok("migrate", "--check", "--json")).only() == {"done": []}
    assert "nothing to do" in (await hub.ok("migrate")).out


async def test_the_doctor_finds_this_host_fit(hub: RunningHub) -> None:
    found = {finding["what"]: finding for finding in (await hub.ok("doctor", "--json")).json}
    agents = {"agent claude_code", "agent qwen_coder", "agent aider"}
    assert set(found) == {"python", "nats-server", "postgresql", "user namespaces", "disk", "sandbox", "hub", *agents}
    assert all(finding["ok"] for what, finding in found.items() if what not in agents)


async def test_api_keys_are_made_used_and_revoked(hub: RunningHub, source: Path) -> None:
    await created(hub, "keys", source)
    made = (
        await hub.ok("credentials", "create", "reader", "--kind", "api_key", "-p", "keys", "--role", "viewer", "--json")
    ).only()
    listed = (await hub.ok("credentials", "ls", "--json")).json
    assert str(made["credential_id"]) in {item["uuid"] for item in listed}
    assert str(made["api_key"]) not in json.dumps(listed)
    await hub.ok("credentials", "revoke", str(made["credential_id"]))
    left = (await hub.ok("credentials", "ls", "--json")).json
    assert str(made["credential_id"]) not in {item["uuid"] for item in left}


async def test_help_costs_little(hub: RunningHub) -> None:
    """The bound is 0.3 s of CPU; measured in bench, here only that nothing heavy is imported."""
    done = await hub.ok("--help")
    assert "checkpoint" in done.out
