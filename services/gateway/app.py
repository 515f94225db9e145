"""The gateway lets machines call models: it knows who calls, has each call paid for, passes it on, and says what it used."""

import asyncio
import gc
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import aiohttp

from services.gateway.account import Accounts
from services.gateway.boundary import Checkpoints
from services.gateway.call import Parts
from services.gateway.context import Boundary, InFlight
from services.gateway.http import Routes, serving
from services.gateway.leases import Leases
from services.gateway.limits import Limits
from services.gateway.meters import Meters
from services.gateway.ratelimited import Cooldown, Holds
from services.gateway.settings import GatewaySettings
from services.gateway.tokens import Tokens
from services.kit.bus import Bus
from services.kit.health import Health, Part
from services.kit.ledger import CallLedger, LedgerClient
from services.kit.metrics import Metrics

RESOLVE_S = 10.0
"""How long what was used may still be told to the budget when the gateway ends; what is not is settled by its lease."""

__all__ = ["Gateway", "GatewaySettings", "create_app"]


def create_app(
    bus: Bus, settings: GatewaySettings, *, ledger: CallLedger | None = None, boundary: Boundary | None = None
) -> "Gateway":
    """Build the gateway; it runs inside its `async with` block.

    Raises:
        Refused: The upstreams are not configured as they should be.
    """
    return Gateway(bus, settings, ledger or LedgerClient(bus.wire), boundary)


class Gateway:
    """All parts of the gateway, wired."""

    name = "gateway"

    def __init__(self, bus: Bus, settings: GatewaySettings, ledger: CallLedger, boundary: Boundary | None) -> None:
        self.metrics = Metrics(self.name)
        self.port = 0
        """Where models are called, once it runs."""
        self._settings = settings
        self._upstreams = settings.upstreams()
        self._bus = bus
        self.tokens = Tokens(bus.log)
        self.in_flight = InFlight()
        self._leases = Leases(ledger)
        self._background: set[asyncio.Task[None]] = set()
        self._accounts = Accounts(ledger, self._leases, self._spawn)
        self._meters = Meters(self.metrics, self.in_flight)
        self._boundary: Boundary = boundary or Checkpoints(
            bus.nc, self.tokens, settings.gateway_checkpoint_s, self._meters.checkpoint_missed
        )
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        # What is loaded by now stays: the collector need not look at it again.
        gc.freeze()
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(self.tokens.following())
            tasks = await exits.enter_async_context(asyncio.TaskGroup())
            exits.callback(tasks.create_task(self._leases.run()).cancel)
            session = await exits.enter_async_context(
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                    auto_decompress=False,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    read_bufsize=64 * 1024,
                )
            )
            exits.push_async_callback(self._finish)
            app = Routes(self._parts(session), self._upstreams).app()
            settings = self._settings
            serve = serving(app, settings.gateway_host, settings.gateway_port, settings.gateway_stop_s)
            self.port = await exits.enter_async_context(serve)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._exits.__aexit__(exc_type, exc, tb)

    async def health(self) -> Health:
        named = ", ".join(upstream.name for upstream in self._upstreams) or "none: no model can be called"
        calls = f"{self.in_flight.total} open, {len(self._leases)} reserved, {len(self._background)} being resolved"
        own = (Part("upstreams", ok=True, detail=named), Part("calls", ok=True, detail=calls))
        return Health(own) + self.tokens.health()

    def _parts(self, session: aiohttp.ClientSession) -> Parts:
        wait_s = self._settings.gateway_rate_wait_s
        return Parts(
            settings=self._settings,
            session=session,
            accounts=self._accounts,
            tokens=self.tokens,
            boundary=self._boundary,
            limits=Limits(),
            holds=Holds(self._bus.log),
            cooldowns={upstream.name: Cooldown(wait_s) for upstream in self._upstreams},
            in_flight=self.in_flight,
            meters=self._meters,
            spawn=self._spawn,
        )

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Do what must be done though whoever asked may go; it is waited for when the gateway ends."""
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task), "what is spawned is a coroutine"
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _finish(self) -> None:
        end = asyncio.get_running_loop().time() + RESOLVE_S
        while self._background and (left_s := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._background, timeout=left_s)
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)
