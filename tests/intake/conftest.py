"""A door on a real server, and the client side of it: plain nats-py, nothing of ours."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from uuid import UUID, uuid4

import nats
import pytest_asyncio
from nats.aio.client import Client
from nats.aio.msg import Msg

from cli.stack.nats import EmbeddedNats
from events.address import checkpoint, machine, project
from events.checkpoint import CheckpointTaken
from events.envelope import Cause, Recorded
from events.project import ProjectCreated
from events.records import Problem, Rejected
from events.words import CheckpointType, CreationContext
from services.intake.app import IntakeSettings, create_app
from services.kit import topology
from services.kit.bus import Bus
from services.kit.log import Write
from services.kit.settings import BusSettings
from tests.harness import eventually

GOAL = {"goal": "make test", "machine_type": "shell"}
HISTORY = Cause("test")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a question: where it stands, or why not."""

    seq: int = 0
    id: str = ""
    duplicate: bool = False
    code: str = ""
    problem: Problem | None = None


class Knocker:
    """Asks and publishes at the door, and looks behind it."""

    def __init__(self, nc: Client, bus: Bus) -> None:
        self.nc = nc
        self.bus = bus

    async def ask(self, subject: str, body: object, **headers: str) -> Answer:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return answer(await self.nc.request(f"ask.{subject}", payload, timeout=10, headers=named or None))

    async def publish(self, subject: str, body: object, headers: Mapping[str, str] | None = None) -> int:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        ack = await self.nc.jetstream().publish(f"in.{subject}", payload, headers=dict(headers) if headers else None)
        return ack.seq

    async def events(self) -> list[Recorded]:
        return [recorded async for batch in self.bus.log.follow(stop_at_end=True) for recorded in batch]

    async def of(self, type_name: str) -> list[Recorded]:
        return [recorded for recorded in await self.events() if recorded.envelope.type == type_name]

    async def rejections(self, count: int) -> list[tuple[str, Rejected]]:
        """Wait until the door has refused `count` published knocks."""

        async def recorded() -> list[tuple[str, Rejected]]:
            found = await self.bus.log.reader.__class__(self.bus.wire, "REJECTED").read_filter("rejected.>", 0)
            return [(message.subject, Rejected.model_validate_json(message.data)) for message in found]

        async def enough() -> list[tuple[str, Rejected]]:
            found = await recorded()
            return found if len(found) >= count else []

        return await eventually(enough)

    async def handled(self) -> None:
        """Wait until nothing is left in IN."""

        async def empty() -> bool:
            return (await self.bus.js.stream_info("IN")).state.messages == 0

        await eventually(empty)


def answer(message: Msg) -> Answer:
    headers = message.headers or {}
    if code := headers.get("Nats-Service-Error-Code"):
        return Answer(code=code, problem=Problem.model_validate_json(message.data))
    return Answer(**json.loads(message.data))


@pytest_asyncio.fixture
async def bus(nats_server: EmbeddedNats) -> AsyncIterator[Bus]:
    async with Bus.connect(BusSettings(nats_url=nats_server.url), name="test") as bus:
        await topology.apply(bus)
        yield bus


@pytest_asyncio.fixture
async def door(nats_server: EmbeddedNats, bus: Bus) -> AsyncIterator[Knocker]:
    """An open door and somebody in front of it."""
    nc = await nats.connect(nats_server.url)
    async with create_app(bus, IntakeSettings(nats_url=nats_server.url)):
        yield Knocker(nc, bus)
    await nc.close()


async def given_project(bus: Bus, slug: str) -> None:
    await bus.log.append(Write(project(slug), 0, (ProjectCreated(),)), cause=HISTORY)


async def given_checkpoint(bus: Bus, slug: str) -> UUID:
    checkpoint_id = uuid4()
    taken = CheckpointTaken(
        checkpoint_type=CheckpointType.MANUAL,
        creation_context=CreationContext.REQUESTED,
        snapshot="0" * 64,
        file_count=1,
        size_bytes=1,
        stored_bytes=1,
    )
    await bus.log.append(Write(checkpoint(slug, checkpoint_id), 0, (taken,)), cause=HISTORY)
    return checkpoint_id


def a_machine(slug: str = "webshop", machine_id: UUID | None = None) -> str:
    return machine(slug, machine_id or uuid4()).subject("MachineRequested").removeprefix("av.")
