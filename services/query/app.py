"""The query service answers HTTP: it reads the read model, follows the streams, and knocks at the door for others."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Self

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path
from starlette.routing import Router
from starlette.types import ASGIApp

from services.kit.apikeys import ApiKeys
from services.kit.bus import Bus
from services.kit.health import Health, Part
from services.kit.ledger import LedgerClient
from services.kit.metrics import Metrics
from services.query.answers import Answers
from services.query.commands import Commands
from services.query.database import Database
from services.query.differences import Differences
from services.query.door import BusDoor, Door
from services.query.gauges import Gauges
from services.query.http import Asked, Endpoint, Route, json_response, nowhere
from services.query.letters import Letters
from services.query.live import Live
from services.query.openapi import document
from services.query.places import Places
from services.query.position import Position
from services.query.prices import Prices
from services.query.reads import Reads
from services.query.routes import Handlers, routes
from services.query.server import serving
from services.query.settings import QuerySettings
from services.query.status import Status
from services.query.streaming import Streams

VERSION = "0.1.0"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

__all__ = ["Query", "QuerySettings", "create_app"]


def create_app(bus: Bus, settings: QuerySettings, *, door: Door | None = None) -> "Query":
    return Query(bus, settings, door or BusDoor(bus, deadline_s=settings.query_door_deadline_s))


class Query:
    """Open on `url` inside its `async with` block."""

    name = "query"

    def __init__(self, bus: Bus, settings: QuerySettings, door: Door) -> None:
        self.metrics = Metrics(self.name)
        self.url = ""
        self._bus = bus
        self._settings = settings
        self._keys: ApiKeys = ApiKeys(bus.log)
        self._exits = AsyncExitStack()
        self._position = Position(settings.database_url, wait_s=settings.query_wait_s)
        self._database = Database(
            settings.database_url,
            connections_max=settings.database_connections_max,
            statement_timeout_ms=settings.query_statement_timeout_ms,
        )
        self._streams = Streams(streams_max=settings.query_streams_max, per_key_max=settings.query_streams_per_key_max)
        self._gauges = Gauges(self.metrics, self._streams)
        self.routes = (*routes(self._handlers(door)), *self._operations())
        self.document = document(self.routes, VERSION)

    def _handlers(self, door: Door) -> Handlers:
        bus, database, position, settings = self._bus, self._database, self._position, self._settings
        places = Places(database, bus.log)
        return Handlers(
            reads=Reads(database, Answers(position, entries_max=settings.query_kept_answers_max)),
            commands=Commands(door, places),
            live=Live(bus, places, self._streams, keep_alive_s=settings.query_keep_alive_s),
            differences=Differences(database, places, settings.store),
            letters=Letters(bus),
            status=Status(database, position, bus.log.end, VERSION),
            prices=Prices(LedgerClient(bus.wire, actor=self.name)),
        )

    def _operations(self) -> Sequence[Route]:
        """What is about the service itself; /health, which needs no key, stands outside of the table."""
        return (
            Route("GET", "/metrics", self._metrics, "Prometheus metrics", everything=True, answers="text/plain"),
            Route("GET", "/openapi.json", self._openapi, "This document"),
        )

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(self._database.opened())
            await exits.enter_async_context(self._position.listened())
            await exits.enter_async_context(self._keys.following())
            await exits.enter_async_context(self._measuring())
            host, connections_max = self._settings.query_host, self._settings.query_connections_max
            port = await exits.enter_async_context(
                serving(self.asgi(), host, self._settings.query_port, connections_max=connections_max)
            )
            exits.callback(self._streams.closing.set)
            self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._exits.__aexit__(exc_type, exc, tb)

    async def health(self) -> Health:
        position = self._position
        detail = f"seq {position.seq}, {position.state}"
        parts = (
            Part("database", ok=position.listening, detail=detail),
            Part("bus", ok=self._bus.nc.is_connected),
        )
        return Health(parts) + self._keys.health()

    async def _health(self, request: Request) -> Response:
        """Answer anybody: whether this service can answer, and nothing about what is in the hub."""
        del request
        found = await self.health()
        said = {
            "status": "healthy" if found.ok else "unhealthy",
            "service": "autovibe-hub",
            "version": VERSION,
            "parts": {part.name: part.ok for part in found.parts},
        }
        return json_response(said, 200 if found.ok else 503, {"Cache-Control": "no-store"})

    async def _metrics(self, asked: Asked) -> Response:
        del asked
        return Response(self.metrics.text(), media_type=PROMETHEUS)

    async def _openapi(self, asked: Asked) -> Response:
        del asked
        return json_response(self.document)

    @asynccontextmanager
    async def _measuring(self) -> AsyncGenerator[None]:
        looking = asyncio.create_task(self._gauges.follow(self._database))
        try:
            yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    def asgi(self) -> ASGIApp:
        """One ASGI application per path; Starlette only finds the right one."""
        by_path: dict[str, list[Route]] = {}
        for route in self.routes:
            by_path.setdefault(route.path, []).append(route)
        paths = [
            Path(path, Endpoint(found, self._keys, self._position, self._gauges)) for path, found in by_path.items()
        ]
        app: ASGIApp = Router([*paths, Path("/health", self._health)], redirect_slashes=False, default=nowhere)
        if origins := self._settings.query_cors_origins:
            methods = ("GET", "POST", "PATCH", "DELETE")
            headers = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "If-None-Match")
            exposed = ("Autovibe-Seq", "ETag")
            app = CORSMiddleware(app, origins, methods, headers, expose_headers=exposed)
        return app
