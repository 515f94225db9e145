"""A gateway on a real log, machines that may call it, and the hands of everybody else."""

import hashlib
import io
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from uuid import UUID

import aiohttp

from events import address as at
from events import machine as m
from events.base import Event
from events.credential import CredentialIssued, CredentialRevoked
from events.envelope import Cause
from events.fresh import uuid7
from events.project import AgentPolicy, ProjectCreated
from events.words import MachineType, Resource, Role
from services.gateway.app import Gateway, GatewaySettings, create_app
from services.gateway.context import Boundary, Dialect, Unheld
from services.gateway.settings import Upstream
from services.kit.bus import Bus
from services.kit.ledger import CallLedger
from services.kit.log import Write
from services.kit.repository import decide_and_append
from tests.gateway.ledger import MemoryLedger
from tests.harness import eventually

SHOP = "webshop"
KEY = "sk-ant-the-real-one"
TEST = Cause("test")
ASK = {"model": "claude-sonnet-5", "max_tokens": 1_000, "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**ASK, "stream": True}
MESSAGES = "/v1/messages?beta=true"


@dataclass(slots=True)
class Machine:
    """A machine that runs, and the token of its epoch."""

    machine_id: UUID
    token: str
    credential_id: UUID
    epoch: int = 1


@dataclass(slots=True)
class World:
    """What a test says and sees."""

    bus: Bus
    gateway: Gateway
    ledger: MemoryLedger
    session: aiohttp.ClientSession
    machines: list[Machine] = field(default_factory=list[Machine])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    async def happen(self, address: at.Address, *events: Event) -> None:
        async def decide() -> list[Write]:
            return [Write(address, (await self.bus.log.load(address)).seq, events)]

        appended = await decide_and_append(self.bus.log, decide, cause=TEST)
        seq = appended.seq if appended else 0
        await eventually(lambda: self.gateway.tokens.position >= seq)

    async def project(self, *models_allowed: str) -> None:
        policy = AgentPolicy(models_allowed=models_allowed)
        await self.happen(at.project(SHOP), ProjectCreated(agent_policy=policy))

    async def machine(self) -> Machine:
        machine_id = uuid7()
        await self.happen(
            at.machine(SHOP, machine_id),
            m.MachineRequested(goal="make test", machine_type=MachineType.CLAUDE_CODE),
            m.MachineAdmitted(reservation_id=uuid7(), held={Resource.MONEY: Decimal(1)}),
        )
        machine = Machine(machine_id, "", uuid7(), 0)
        await self.next_epoch(machine)
        self.machines.append(machine)
        return machine

    async def next_epoch(self, machine: Machine) -> str:
        """Give the machine another incarnation. Returns the token of the one before."""
        before = machine.token
        machine.epoch += 1
        machine.token, machine.credential_id = f"machine-token-{uuid7()}", uuid7()
        await self.happen(
            at.Address(SHOP, "credential", str(machine.credential_id)),
            CredentialIssued(
                kind="machine",
                name=f"machine {machine.machine_id}",
                role=Role.OPERATOR,
                projects=(SHOP,),
                key_sha256=hashlib.sha256(machine.token.encode()).hexdigest(),
                machine_id=machine.machine_id,
                epoch=machine.epoch,
            ),
        )
        await self.happen(
            at.machine(SHOP, machine.machine_id),
            m.MachineProvisioningStarted(
                epoch=machine.epoch,
                from_checkpoint_id=uuid7(),
                snapshot="0" * 64,
                node="test",
                on_trunk=True,
                hypervisor="local",
            ),
        )
        return before

    async def revoke(self, machine: Machine) -> None:
        await self.happen(at.Address(SHOP, "credential", str(machine.credential_id)), CredentialRevoked())

    @asynccontextmanager
    async def asked(
        self, machine: Machine | None, body: object = STREAM, path: str = MESSAGES, **headers: str
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Ask the gateway as an agent does."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if machine is not None:
            named["authorization"] = f"Bearer {machine.token}"
        data = io.BytesIO(body) if isinstance(body, bytes) else None
        json = None if isinstance(body, bytes) else body
        if data is not None:
            named.setdefault("content-type", "application/json")
        async with self.session.post(self.url + path, data=data, json=json, headers=named) as response:
            yield response

    async def said(self, machine: Machine | None, body: object = STREAM, path: str = MESSAGES) -> tuple[int, bytes]:
        async with self.asked(machine, body, path) as response:
            return response.status, await response.read()

    async def resolved(self, calls: int = 1) -> None:
        """Wait until so many calls are settled or voided, and none is open."""
        ledger = self.ledger
        await eventually(lambda: len(ledger.settled) + len(ledger.voided) == calls and not ledger.open)

    def settled(self) -> list[tuple[int, bool]]:
        """Return output tokens of what was settled, and whether they are an estimate."""
        return [(each.tokens.output, each.estimated) for each in self.ledger.settled.values()]


@asynccontextmanager
async def a_world(
    bus: Bus,
    *urls: str,
    ledger: CallLedger | None = None,
    boundary: Boundary | None = None,
    is_held: bool = False,
    **settings: object,
) -> AsyncGenerator[World]:
    """A gateway whose upstreams are at these URLs: Anthropic's first, then one that speaks as OpenAI.

    `is_held`: by the gateway's own checkpoints.
    """
    named = zip(urls, (Dialect.ANTHROPIC, Dialect.OPENAI), strict=False)
    upstreams = tuple(
        Upstream(name=protocol.value, protocol=protocol, base_url=url, credential=KEY, silence_s=5)
        for url, protocol in named
    )
    chosen = GatewaySettings.model_validate(
        {
            "gateway_port": 0,
            "gateway_upstreams": upstreams,
            "gateway_stop_s": 1,
            "gateway_drain_s": 1,
            "gateway_observe_after_s": 0,
            **settings,
        }
    )
    memory = MemoryLedger()
    async with (
        create_app(
            bus, chosen, ledger=ledger or memory, boundary=boundary or (None if is_held else Unheld())
        ) as gateway,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session,
    ):
        yield World(bus, gateway, memory, session)
