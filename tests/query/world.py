"""A hub as far as the query service knows one: real servers, the intake, the projector, and history said for tests."""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import psycopg

from events import address
from events.address import Address
from events.base import Event
from events.checkpoint import CheckpointTaken
from events.credential import CredentialIssued, CredentialRevoked
from events.envelope import Cause
from events.fresh import now, uuid7
from events.ids import HUB, derived
from events.machine import MachineEnded, MachineRequested, UsageRecorded
from events.project import ProjectAdvanced, ProjectCreated
from events.words import CheckpointType, CreationContext, MachineType, Outcome, Resource, Role, Unit
from services.intake.app import IntakeSettings
from services.intake.app import create_app as create_intake
from services.kit import topology
from services.kit.bus import Bus
from services.kit.log import Write
from services.kit.settings import BusSettings
from services.projector.app import ProjectorSettings
from services.projector.app import create_app as create_projector
from services.query.app import Query, QuerySettings, create_app
from tests.harness import eventually
from tests.query.client import Client

HISTORY = Cause("test")
ADMIN, OPERATOR, VIEWER, OTHER = "key-admin", "key-operator", "key-viewer", "key-other"
SHOP, OTHERS = "webshop", "bakery"


@dataclass
class World:
    """The service, who asks it, and a hand in the log."""

    bus: Bus
    query: Query
    dsn: str
    ids: dict[str, UUID] = field(default_factory=dict[str, UUID])
    seq: int = 0

    def client(self, key: str = ADMIN) -> Client:
        return Client(self.query.url, key)

    async def say(self, at: Address, *events: Event) -> int:
        history = await self.bus.log.load(at)
        appended = await self.bus.log.append(Write(at, history.seq, events), cause=HISTORY)
        self.seq = appended.seq
        return appended.seq

    async def settled(self) -> int:
        """Wait until the read model has all that was said; gives the log's end."""
        end = await self.bus.log.end()
        answer = await self.client().get("/api/v1/status", at_least_seq=end)
        assert answer.status == 200, answer.body
        return end

    async def key(
        self, key: str, role: Role, projects: Sequence[str] = (), *, expires_at: datetime | None = None
    ) -> UUID:
        credential_id = uuid7()
        digest = hashlib.sha256(key.encode()).hexdigest()
        await self.say(
            address.credential(HUB, credential_id),
            CredentialIssued(
                kind="api_key",
                name=key,
                role=role,
                projects=tuple(projects),
                key_sha256=digest,
                expires_at=expires_at,
            ),
        )
        return credential_id

    async def revoke(self, credential_id: UUID) -> None:
        await self.say(address.credential(HUB, credential_id), CredentialRevoked(reason="test"))

    async def project(self, slug: str) -> UUID:
        """A project with its genesis; gives the checkpoint."""
        genesis = derived("genesis", slug)
        await self.say(address.project(slug), ProjectCreated(description=f"all about {slug}"))
        await self.checkpoint(slug, genesis, kind=CheckpointType.GENESIS, context=CreationContext.INITIAL_STATE)
        await self.say(address.project(slug), ProjectAdvanced(checkpoint_id=genesis))
        return genesis

    async def checkpoint(
        self,
        slug: str,
        checkpoint_id: UUID,
        *,
        kind: CheckpointType = CheckpointType.FINAL,
        context: CreationContext = CreationContext.FINAL_STATE,
        snapshot: str = "0" * 64,
        parent: UUID | None = None,
        machine: UUID | None = None,
    ) -> None:
        await self.say(
            address.checkpoint(slug, checkpoint_id),
            CheckpointTaken(
                checkpoint_type=kind,
                creation_context=context,
                snapshot=snapshot,
                parent_id=parent,
                machine_id=machine,
                epoch=1 if machine else None,
                file_count=3,
                size_bytes=300,
                stored_bytes=100,
            ),
        )

    async def machine(self, slug: str, goal: str = "make test", *, ended: bool = False) -> UUID:
        machine_id = uuid4()  # not time-ordered: prefixes of four digits differ
        at = address.machine(slug, machine_id)
        await self.say(at, MachineRequested(goal=goal, machine_type=MachineType.SHELL))
        if ended:
            await self.end(slug, machine_id)
        return machine_id

    async def end(self, slug: str, machine_id: UUID) -> None:
        used = UsageRecorded(
            epoch=1,
            resource_type=Resource.TIME,
            resource_subtype="vm_runtime",
            amount=Decimal("1.5"),
            unit=Unit.MINUTES,
            cost_cad=Decimal("0.123456789"),
            period_start=now(),
            period_end=now(),
        )
        ended = MachineEnded(epoch=1, outcome=Outcome.SUCCEEDED, exit_code=0)
        await self.say(address.machine(slug, machine_id), used, ended)


@asynccontextmanager
async def a_world(
    nats_url: str, dsn: str, *, store: Path | None = None, project: bool = True, **settings: object
) -> AsyncGenerator[World]:
    async with Bus.connect(BusSettings(nats_url=nats_url), name="test") as bus:
        await topology.apply(bus)
        projector = ProjectorSettings.model_validate({"nats_url": nats_url, "database_url": dsn})
        query = QuerySettings.model_validate(
            {"nats_url": nats_url, "database_url": dsn, "query_port": 0, "store": store, **settings}
        )
        async with (
            create_intake(bus, IntakeSettings(nats_url=nats_url)),
            create_projector(bus, projector),
            create_app(bus, query) as service,
        ):
            world = World(bus, service, dsn)
            for key, role, projects in (
                (ADMIN, Role.ADMIN, ()),
                (OPERATOR, Role.OPERATOR, (SHOP,)),
                (VIEWER, Role.VIEWER, (SHOP,)),
                (OTHER, Role.OPERATOR, (OTHERS,)),
            ):
                await world.key(key, role, projects)

            async def known() -> bool:
                return (await world.client(OTHER).get("/api/v1/events/types")).status == 200

            await eventually(known)
            yield world


async def execute(dsn: str, statement: str, *parameters: object) -> None:
    """Put rows where no event would put them so."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(statement.encode(), parameters)
