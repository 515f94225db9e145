"""A client that knows nothing of our code: nats-py, a creds file, SQL, HTTP; and one in another language."""

import asyncio
import json
import shutil
import urllib.request
import uuid
from pathlib import Path

import nats
import psycopg
import pytest
from nats.aio.msg import Msg

from tests.harness import eventually
from tests.harness.hub import RunningHub

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A user's own directory."""
    (tmp_path / "Makefile").write_text("test:\n\t@echo tests ran; echo more > made-by-the-goal\n")
    return tmp_path


async def project(hub: RunningHub, name: str, source: Path) -> None:
    await hub.ok("project", "create", name, "--from", str(source), "--budget", "5CAD", "--greediness", "0.7")


async def creds(hub: RunningHub, name: str, tmp_path: Path, role: str = "operator") -> Path:
    target = tmp_path / f"{name}-{role}.creds"
    await hub.ok("credentials", "create", f"{name}-{role}", "--project", name, "--role", role, "--out", str(target))
    return target


async def test_a_nats_client_runs_a_goal_with_nothing_but_a_subject_and_a_body(
    hub: RunningHub, source: Path, tmp_path: Path
) -> None:
    await project(hub, "foreign", source)
    file = await creds(hub, "foreign", tmp_path)
    client = await nats.connect(hub.context.nats_url, user_credentials=str(file))
    heard: list[str] = []
    ended: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()

    async def on_event(message: Msg) -> None:
        heard.append(message.subject.rpartition(".")[2])
        if message.subject.endswith(".MachineEnded"):
            ended.set_result(json.loads(message.data))

    machine = str(uuid.uuid4())
    try:
        await client.subscribe(f"av.foreign.machine.{machine}.>", cb=on_event)
        await client.flush()
        body = json.dumps({"goal": "make test", "machine_type": "shell"}).encode()
        ack = await client.jetstream().publish(f"in.foreign.machine.{machine}.MachineRequested", body)
        assert ack.stream == "IN"
        async with asyncio.timeout(30):
            outcome = await ended
    finally:
        await client.close()
    assert outcome["outcome"] == "succeeded"
    assert heard[0] == "MachineRequested"
    assert [word for word in heard if word in {"MachineAdmitted", "MachineWorkStarted", "MachineEnded"}] == [
        "MachineAdmitted",
        "MachineWorkStarted",
        "MachineEnded",
    ]
    await _the_tables_say_the_same(hub, machine)
    await _the_query_api_says_the_same(hub, machine)


async def _the_tables_say_the_same(hub: RunningHub, machine: str) -> None:
    async with await psycopg.AsyncConnection.connect(hub.context.database_url) as connection:

        async def row() -> tuple[str, str, str] | None:
            found = await connection.execute(
                "SELECT status, outcome, original_prompt FROM intelligent_machines WHERE uuid = %s AND outcome <> ''",
                (machine,),
            )
            return await found.fetchone()

        assert await eventually(row) == ("terminated", "succeeded", "make test")


async def _the_query_api_says_the_same(hub: RunningHub, machine: str) -> None:
    def get(path: str) -> dict[str, object]:
        request = urllib.request.Request(
            f"{hub.context.url}{path}", headers={"Authorization": f"Bearer {hub.context.api_key}"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    found = await asyncio.to_thread(get, f"/api/v1/machines/{machine}")
    assert (found["status"], found["outcome"], found["original_prompt"]) == ("terminated", "succeeded", "make test")


async def test_a_client_in_another_language_tells_the_same_story(hub: RunningHub, source: Path, tmp_path: Path) -> None:
    node = shutil.which("node")
    npm = shutil.which("npm")
    assert node, "this test needs node: apt-get install nodejs npm"
    assert npm, "this test needs npm: apt-get install npm"
    await project(hub, "polyglot", source)
    file = await creds(hub, "polyglot", tmp_path)
    place = tmp_path / "client"
    place.mkdir()
    script = Path(__file__).with_name("story.mjs")
    (place / "story.mjs").write_text(script.read_text())
    (place / "package.json").write_text(script.with_name("package.json").read_text())
    installed = await asyncio.create_subprocess_exec(
        npm, "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock", cwd=place
    )
    assert await installed.wait() == 0
    machine = str(uuid.uuid4())
    told = await asyncio.create_subprocess_exec(
        *(node, "story.mjs", hub.context.nats_url, str(file), "polyglot", machine),
        cwd=place,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await told.communicate()
    assert told.returncode == 0, err.decode()
    assert json.loads(out) == {"machine": machine, "outcome": "succeeded", "first": "MachineRequested"}
    await _the_tables_say_the_same(hub, machine)


async def test_what_the_door_refuses_is_said_to_the_client_that_published_it(
    hub: RunningHub, source: Path, tmp_path: Path
) -> None:
    await project(hub, "refusals", source)
    file = await creds(hub, "refusals", tmp_path)
    client = await nats.connect(hub.context.nats_url, user_credentials=str(file))
    refused: asyncio.Queue[dict[str, dict[str, str]]] = asyncio.Queue(10)

    async def on_refusal(message: Msg) -> None:
        refused.put_nowait(json.loads(message.data))

    try:
        await client.subscribe("rejected.refusals.>", cb=on_refusal)
        await client.flush()
        subject = f"in.refusals.machine.{uuid.uuid4()}.MachineRequested"
        await client.jetstream().publish(subject, b'{"goal": "x", "machine_type": "shell", "budget": "-1"}')
        async with asyncio.timeout(10):
            rejected = await refused.get()
    finally:
        await client.close()
    assert rejected["problem"]["field"] == "budget"
    assert "-1" in rejected["problem"]["value"]
    assert rejected["problem"]["limit"]


async def test_a_reader_hears_but_cannot_speak(hub: RunningHub, source: Path, tmp_path: Path) -> None:
    await project(hub, "readers", source)
    file = await creds(hub, "readers", tmp_path, role="viewer")
    errors: asyncio.Queue[Exception] = asyncio.Queue(10)

    async def on_error(error: Exception) -> None:
        errors.put_nowait(error)

    client = await nats.connect(hub.context.nats_url, user_credentials=str(file), error_cb=on_error)
    try:
        await client.publish(f"in.readers.machine.{uuid.uuid4()}.MachineRequested", b"{}")
        async with asyncio.timeout(10):
            assert "permissions violation" in str(await errors.get()).lower()
    finally:
        await client.close()
