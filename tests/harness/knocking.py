"""A client at the door that never gives up: what it was told is written down, to be held against the log."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from uuid import uuid4

import nats
import nats.errors
from nats.aio.client import Client
from nats.js.errors import APIError, NoStreamResponseError

from tests.harness.hub import RunningHub

ANSWER_S = 7.0
"""Longer than the door itself tries to append."""
PAUSE_S = 0.1
PATIENCE_S = 90.0
COUNTS = """
n=$(cat n 2>/dev/null || echo 0)
while [ "$n" -lt 8 ]; do n=$((n+1)); echo $n > n; echo step $n; sleep 0.4; done
"""
"""A goal that goes on where the workspace says that it was."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the door acknowledged."""

    subject: str
    seq: int
    id: str


class Refused(Exception):
    """The door said no; the text is its reason."""


@dataclass(slots=True)
class Knocks:
    """What was said to the door and what it answered, over all restarts of the hub."""

    hub: RunningHub
    answers: list[Answer] = field(default_factory=list[Answer])
    taken: list[str] = field(default_factory=list[str])
    """Ids of machines whose request the stream IN acknowledged."""
    unavailable: list[str] = field(default_factory=list[str])
    """Reasons why the door could not take it just then."""
    _client: Client | None = None

    async def connected(self) -> Client:
        """Return a connection to the hub as it runs now: a hub that was started again may be on another port."""
        client = self._client
        if client is not None and client.is_connected:
            url = client.connected_url
            if url is not None and url.geturl() == self.hub.context.nats_url:
                return client
        await self.close()
        self._client = await nats.connect(
            self.hub.context.nats_url,
            user_credentials=self.hub.context.creds,
            allow_reconnect=False,
            max_reconnect_attempts=1,  # of the first connection too: the hub may come back on another port
            reconnect_time_wait=0,
            connect_timeout=2,
            error_cb=_ignored,
        )
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            with suppress(OSError, nats.errors.Error):
                await client.close()

    async def ask(self, project: str, aggregate: str, id_: str, type_: str, body: Mapping[str, object]) -> Answer:
        """Ask with one id until the door answers, as a client that must know does.

        Raises:
            Refused: It answered no.
        """
        subject = f"{project}.{aggregate}.{id_}.{type_}"
        headers = {"Nats-Msg-Id": str(uuid4())}
        data = json.dumps(body).encode()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    client = await self.connected()
                    reply = await client.request(f"ask.{subject}", data, timeout=ANSWER_S, headers=headers)
                except (OSError, TimeoutError, nats.errors.Error):
                    await asyncio.sleep(PAUSE_S)
                    continue
                status = (reply.headers or {}).get("Nats-Service-Error-Code", "")
                if status in {"503", "500"}:
                    self.unavailable.append(reply.data.decode())
                    await asyncio.sleep(PAUSE_S)
                    continue
                if status:
                    raise Refused(reply.data.decode())
                return self.note(subject, json.loads(reply.data))

    def note(self, subject: str, said: Mapping[str, object]) -> Answer:
        """Keep what the door acknowledged."""
        answer = Answer(subject, int(str(said["seq"])), str(said["id"]))
        self.answers.append(answer)
        return answer

    async def publish(self, project: str, machine: str, body: Mapping[str, object]) -> None:
        """Publish a request for a machine until the stream IN acknowledges it."""
        headers = {"Nats-Msg-Id": str(uuid4())}
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    client = await self.connected()
                    stream = client.jetstream(timeout=ANSWER_S)
                    subject = f"in.{project}.machine.{machine}.MachineRequested"
                    await stream.publish(subject, json.dumps(body).encode(), headers=headers)
                except (OSError, TimeoutError, nats.errors.Error, APIError, NoStreamResponseError):
                    await asyncio.sleep(PAUSE_S)
                else:
                    self.taken.append(machine)
                    return

    async def project(self, slug: str, *, budget: str = "100", **facts: object) -> None:
        """Make a project with money to spend."""
        await self.ask(slug, "project", slug, "ProjectCreated", facts)
        await self.ask(slug, "budget", slug, "BudgetRequested", {"amount": budget, "unit": "CAD"})

    async def machine(self, project: str, goal: str, **more: object) -> str:
        """Ask for a machine and return its id."""
        machine = str(uuid4())
        await self.ask(project, "machine", machine, "MachineRequested", {"goal": goal, "machine_type": "shell", **more})
        return machine

    async def keep_updating(self, project: str, until: asyncio.Event) -> None:
        """Say one thing after the other of the project."""
        count = 0
        while not until.is_set():
            count += 1
            await self.ask(project, "project", project, "ProjectUpdated", {"description": f"update {count}"})


@asynccontextmanager
async def knocking(hub: RunningHub) -> AsyncGenerator[Knocks]:
    knocks = Knocks(hub)
    try:
        yield knocks
    finally:
        await knocks.close()


@asynccontextmanager
async def beside(knocks: Knocks, projects: Sequence[str]) -> AsyncGenerator[None]:
    """Keep events in flight at the door while the body runs; a refusal or an error fails the test."""
    enough = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for project in projects:
            group.create_task(knocks.keep_updating(project, enough))
        try:
            yield
        finally:
            enough.set()  # not cancelled: `asyncio.wait_for` of Python 3.11 forgets that when its answer is just there


async def _ignored(_error: Exception) -> None:
    """What went wrong is raised where it was asked; nats-py would print it too."""
