"""A server in operator mode with the issuer and the door, and people with credentials: plain nats-py, nothing of ours."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import nats
import pytest_asyncio
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from cli.stack.nats import EmbeddedNats, NatsConfig, OperatorMode
from events import fresh
from events.address import project
from events.envelope import Cause
from events.project import ProjectCreated
from events.words import Role
from services.intake.app import IntakeSettings
from services.intake.app import create_app as create_intake
from services.issuer.app import Issuer, IssuerSettings
from services.issuer.app import create_app as create_issuer
from services.issuer.bootstrap import Prepared, prepare
from services.issuer.keys import KeyStore
from services.kit import topology
from services.kit.bus import Bus
from services.kit.credentials import IssuerClient
from services.kit.log import Write
from services.kit.settings import BusSettings
from tests.harness import free_port, short_directory

REFUSED_S = 1.0
"""How long a refusal may take to arrive."""


@dataclass
class Person:
    """Somebody with a connection; what the server forbade stands in `forbidden`."""

    nc: Client
    creds: Path
    forbidden: list[str] = field(default_factory=list[str])

    async def arrived(self) -> None:
        """Return when the server has seen, and answered, all that was sent; nats-py's ping overtakes what is pending."""
        await self.nc.flush()
        await self.nc.flush()

    async def may_hear(self, subject: str) -> bool:
        before = len(self.forbidden)
        subscription = await self.nc.subscribe(subject)
        await self.arrived()
        allowed = len(self.forbidden) == before
        if allowed:
            await subscription.unsubscribe()
        return allowed

    async def may_say(self, subject: str, body: bytes = b"{}", reply: str = "") -> bool:
        before = len(self.forbidden)
        await self.nc.publish(subject, body, reply=reply)
        await self.arrived()
        return len(self.forbidden) == before

    async def overhears(self, subject: str) -> list[Msg]:
        """Collect all that comes on a subject from now on."""
        heard: list[Msg] = []

        async def hear(message: Msg) -> None:
            heard.append(message)

        await self.nc.subscribe(subject, cb=hear)
        await self.arrived()
        return heard


class Hub:
    """The hub as its operator sees it."""

    def __init__(self, server: EmbeddedNats, bus: Bus, system: Bus, issuer: Issuer, prepared: Prepared) -> None:
        self.server = server
        self.bus = bus
        self.system = system
        self.issuer = issuer
        self.prepared = prepared
        self.credentials = IssuerClient(bus.nc)
        self.people = AsyncExitStack()

    async def create_project(self, slug: str) -> None:
        await self.bus.log.append(Write(project(slug), 0, (ProjectCreated(),)), cause=Cause("test"))

    async def ask_credential(self, asker: Client, credential_id: UUID, verb: str, **body: object) -> Msg:
        subject = f"ask._hub.credential.{credential_id}.{verb}"
        return await asker.request(subject, json.dumps(body).encode(), timeout=5)

    async def client(self, slug: str, role: Role = Role.OPERATOR, name: str = "ann") -> tuple[Person, UUID]:
        credential_id = uuid4()
        said = await self.ask_credential(
            self.bus.nc, credential_id, "CredentialRequested", kind="client", name=name, role=role, projects=[slug]
        )
        return await self.connect(json.loads(said.data)["creds"]), credential_id

    async def machine(self, slug: str, machine_id: UUID, epoch: int = 1, ttl_s: int = 60) -> Person:
        made = await self.credentials.machine(slug, machine_id, epoch, ttl_s)
        return await self.connect(made.creds, inbox=f"_INBOX_{machine_id}")

    async def operator(self) -> Person:
        return await self.connect(self.prepared.operator_creds.read_text())

    async def connect(self, creds: str, inbox: str = "_INBOX", *, reconnect: bool = False) -> Person:
        """Connect as any NATS client does: a server address and a creds file."""
        path = self.server.directory / f"{uuid4().hex}.creds"
        path.write_text(creds)
        forbidden: list[str] = []

        async def note(error: Exception) -> None:
            forbidden.append(str(error))

        nc = await nats.connect(
            self.server.url,
            user_credentials=str(path),
            inbox_prefix=inbox,
            error_cb=note,
            allow_reconnect=reconnect,
            max_reconnect_attempts=100,
            reconnect_time_wait=0.05,
        )
        self.people.push_async_callback(_close, nc)
        return Person(nc, path, forbidden)

    async def refuses(self, creds: Path) -> bool:
        """Whether the server lets nobody in with this file."""
        nc = Client()
        try:
            await nc.connect(
                self.server.url, user_credentials=str(creds), allow_reconnect=False, connect_timeout=2, error_cb=_ignore
            )
        except NatsError as error:
            return "auth" in str(error).lower()
        else:
            return False
        finally:
            # nats-py leaves the socket of a refused connection open.
            transport = nc._transport  # pyright: ignore[reportPrivateUsage]
            await nc.close()
            if transport is not None:
                transport.close()


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[Hub]:
    with short_directory() as directory:
        keys = KeyStore(directory / "keys")
        prepared = prepare(keys, directory / "creds", resolver=directory / "accounts", at=fresh.now())
        mode = OperatorMode(prepared.operator_jwt, prepared.system_account, prepared.resolver, prepared.preload)
        settings = IssuerSettings(issuer_keys=directory / "keys", push_retry_s=0.1)
        async with AsyncExitStack() as exits:
            server = await exits.enter_async_context(
                EmbeddedNats(directory / "nats", NatsConfig(port=free_port(), operator=mode))
            )
            as_hub = BusSettings(nats_url=server.url, nats_creds=prepared.hub_creds)
            as_system = BusSettings(nats_url=server.url, nats_creds=prepared.system_creds)
            bus = await exits.enter_async_context(Bus.connect(as_hub, name="hub"))
            system = await exits.enter_async_context(Bus.connect(as_system, name="system"))
            await topology.apply(bus)
            issuer = await exits.enter_async_context(create_issuer(bus, system.nc, settings))
            await exits.enter_async_context(create_intake(bus, IntakeSettings()))
            hub = Hub(server, bus, system, issuer, prepared)
            await exits.enter_async_context(hub.people)
            for slug in ("webshop", "other"):
                await hub.create_project(slug)
            yield hub


async def _close(nc: Client) -> None:
    """Close a client and its socket: nats-py leaves that of a connection that the server cut for the collector."""
    transport = nc._transport  # pyright: ignore[reportPrivateUsage]
    if not nc.is_closed:
        await nc.close()
    if transport is not None:
        transport.close()


async def _ignore(_error: Exception) -> None:
    await asyncio.sleep(0)
