"""A server with the topology on it, and a client that asks and watches."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TypeVar
from uuid import UUID

import pytest_asyncio

from cli.stack.nats import EmbeddedNats, NatsConfig
from domain.budget import Account, account
from events import address, fresh
from events.address import Address
from events.base import Event
from events.budget import BudgetRequested
from events.envelope import Cause, Recorded
from events.ids import HUB
from events.machine import MachineEnded, MachineRequested, UsageRecorded
from events.words import Outcome, Resource, Unit
from services.budget.app import Budget, BudgetSettings, create_app
from services.kit import topology
from services.kit.bus import Bus
from services.kit.errors import Conflict
from services.kit.log import Write
from services.kit.settings import BusSettings
from tests.budget.world import SHOP
from tests.harness import eventually, free_port, short_directory

E = TypeVar("E", bound=Event)
FREE = BudgetSettings(vcpu_hour_cad=Decimal(0), gib_hour_cad=Decimal(0))


@dataclass(frozen=True, slots=True)
class Client:
    """Says what intake and spawner would say, and reads the log."""

    bus: Bus

    async def say(self, where: Address, *events: Event) -> Recorded:
        while True:
            seq = (await self.bus.log.load(where)).seq
            try:
                appended = await self.bus.log.append(Write(where, seq, events), cause=Cause("test"))
            except Conflict:
                continue
            recorded = await self.bus.log.event(appended.seq)
            assert recorded is not None
            return recorded

    async def ask(self, asked: MachineRequested, slug: str = SHOP, who: UUID | None = None) -> UUID:
        who = who or fresh.uuid7()
        await self.say(address.machine(slug, who), asked)
        return who

    async def end(self, who: UUID, cost: str = "0", slug: str = SHOP) -> None:
        now = fresh.now()
        used = UsageRecorded(
            epoch=1,
            resource_type=Resource.CPU,
            resource_subtype="vm_runtime",
            amount=Decimal(1),
            unit=Unit.CPU_HOURS,
            cost_cad=Decimal(cost),
            period_start=now,
            period_end=now,
        )
        ended = MachineEnded(epoch=1, outcome=Outcome.SUCCEEDED)
        await self.say(address.machine(slug, who), *([used] if Decimal(cost) else []), ended)

    async def set_budget(self, node: str, *asked: BudgetRequested) -> None:
        await self.say(address.budget(node, node), *asked)

    async def events(self, where: Address) -> list[Event]:
        return [recorded.event for recorded in (await self.bus.log.load(where)).events]

    async def of(self, kind: type[E], where: Address) -> list[E]:
        return [event for event in await self.events(where) if isinstance(event, kind)]

    async def machine(self, kind: type[E], who: UUID, slug: str = SHOP) -> E | None:
        return next(iter(await self.of(kind, address.machine(slug, who))), None)

    async def hears(self, kind: type[E], who: UUID, slug: str = SHOP) -> E:
        """Wait until this is said of a machine."""
        found = await eventually(lambda: self.machine(kind, who, slug))
        assert found is not None
        return found

    async def account(self, node: str, slug: str = SHOP) -> Account:
        state = Account()
        for event in await self.events(address.budget(HUB if node == HUB else slug, node)):
            state = account.evolve(state, event)
        return state

    async def all(self, *filters: str) -> list[Recorded]:
        return [recorded async for batch in self.bus.log.follow(0, filters, stop_at_end=True) for recorded in batch]

    async def said(self, kind: type[E], slug: str = SHOP) -> list[Recorded]:
        return await self.all(f"av.{slug}.{kind.aggregate}.*.{kind.type()}")

    async def idle(self) -> bool:
        """Say whether the budget has answered everything that the log holds."""
        info = await self.bus.js.consumer_info("LOG", "budget")
        return not info.num_pending and not info.num_ack_pending


@pytest_asyncio.fixture
async def nats_server() -> AsyncIterator[EmbeddedNats]:
    """As everybody's, on a port that stays the same when the server is started again."""
    with short_directory() as directory:
        async with EmbeddedNats(directory, NatsConfig(port=free_port())) as server:
            yield server


@pytest_asyncio.fixture
async def bus_settings(nats_server: EmbeddedNats) -> BusSettings:
    return BusSettings(nats_url=nats_server.url)


@pytest_asyncio.fixture
async def client(bus_settings: BusSettings) -> AsyncIterator[Client]:
    async with Bus.connect(bus_settings, name="test") as bus:
        await topology.apply(bus)
        yield Client(bus)


class Instances:
    """Instances of the service, each on a connection of its own."""

    def __init__(self, settings: BusSettings) -> None:
        self._settings = settings
        self._running: dict[int, tuple[asyncio.Task[None], asyncio.Event]] = {}

    async def start(self, settings: BudgetSettings = FREE, now: Callable[[], datetime] = fresh.now) -> Budget:
        started: asyncio.Future[Budget] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()
        task = asyncio.create_task(self._run(settings, now, started, stop))
        await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            await task
        budget = started.result()
        self._running[id(budget)] = (task, stop)
        return budget

    async def kill(self, budget: Budget) -> None:
        """Cancel it wherever it is, and cut its connection."""
        task, _ = self._running.pop(id(budget))
        task.cancel()
        await asyncio.wait({task})

    async def stop(self, budget: Budget) -> None:
        task, stop = self._running.pop(id(budget))
        stop.set()
        await task

    async def stop_all(self) -> None:
        for task, stop in self._running.values():
            stop.set()
            await task
        self._running.clear()

    async def _run(
        self,
        settings: BudgetSettings,
        now: Callable[[], datetime],
        started: asyncio.Future[Budget],
        stop: asyncio.Event,
    ) -> None:
        async with AsyncExitStack() as exits:
            bus = await exits.enter_async_context(Bus.connect(self._settings, name="budget"))
            budget = await exits.enter_async_context(create_app(bus, settings, now))
            started.set_result(budget)
            await stop.wait()


@pytest_asyncio.fixture
async def instances(bus_settings: BusSettings, client: Client) -> AsyncIterator[Instances]:
    running = Instances(bus_settings)
    yield running
    await running.stop_all()
