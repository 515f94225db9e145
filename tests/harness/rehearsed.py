"""A hub whose provider is the rehearsal model: it hears every request that the gateway forwards, and can keep one waiting."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from services.rehearsal.app import PRICES, Rehearsal
from services.rehearsal.bill import Charge, Usage
from services.rehearsal.script import read
from tests.harness.hub import RunningHub, running_hub

NANO = Decimal(10) ** -9
FREE = dict.fromkeys(("AUTOVIBE_VCPU_HOUR_CAD", "AUTOVIBE_GIB_HOUR_CAD", "AUTOVIBE_STORAGE_GIB_HOUR_CAD"), "0")
"""Machines themselves cost nothing, so that calls are all there is."""
BEGUN = Usage(input=200, output=60)
"""What an answer that never ends has cost so far, by the provider's bill."""

_MESSAGE = {"id": "msg_begun", "type": "message", "role": "assistant", "model": "rehearsal-sonnet"}
_START = {**_MESSAGE, "content": list[object](), "usage": {"input_tokens": BEGUN.input, "output_tokens": 1}}
_EVENTS: tuple[dict[str, object], ...] = (
    {"type": "message_start", "message": _START},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "I begin"}},
)
_BEGINNING = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in _EVENTS]


@dataclass
class Provider:
    """The rehearsal model with ears."""

    model: Rehearsal
    url: str = ""
    heard: list[str] = field(default_factory=list[str])
    """Every request, oldest first."""
    waits_at: int | None = None
    """The request of this number, from 0, is never answered: whoever asked is between two calls for good."""
    begins_at: int | None = None
    """The request of this number gets the beginning of an answer, which is billed, and never the rest."""
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def billed(self) -> Decimal:
        """In all, USD."""
        return self.model.bill.nano_usd * NANO

    async def listen(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        number = len(self.heard)
        self.heard.append(await request.text())
        if number == self.waits_at:
            self.waiting.set()
            await self._over.wait()
            return web.Response(status=503)
        if number == self.begins_at:
            return await self._begin(request, number)
        return await handler(request)

    def keep_waiting(self, number: int) -> None:
        """Keep the request of this number, counted from now on, waiting."""
        self.waits_at = len(self.heard) + number
        self.waiting.clear()

    async def _begin(self, request: web.Request, number: int) -> web.StreamResponse:
        self.model.bill.charge(Charge(f"req_begun_{number}", "rehearsal-sonnet", BEGUN))
        response = web.StreamResponse(
            headers={"content-type": "text/event-stream", "request-id": f"req_begun_{number}"}
        )
        await response.prepare(request)
        await response.write(b"".join(_BEGINNING))
        self.waiting.set()
        await self._over.wait()
        return response

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator["Provider"]:
        @web.middleware
        async def listen(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self.listen(request, handler)

        app = self.model.app()
        app.middlewares.append(listen)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            self._over.set()
            await runner.cleanup()


@asynccontextmanager
async def rehearsed_hub(
    script: Path, settings: Mapping[str, str] | None = None
) -> AsyncGenerator[tuple[RunningHub, Provider]]:
    """Give a hub with this provider, which plays `script` by its own prices in both protocols."""
    async with Provider(Rehearsal(read([script]))).serving() as provider:
        upstreams = [
            {"name": name, "protocol": name, "base_url": provider.url, "price_provider": "rehearsal"}
            for name in ("anthropic", "openai")
        ]
        chosen = {
            **FREE,
            "AUTOVIBE_GATEWAY_UPSTREAMS": json.dumps(upstreams),
            "AUTOVIBE_PRICES_OWN": json.dumps([{**price, "model": "*"} for price in PRICES]),
            "AUTOVIBE_PRICES_PACKAGED": "false",
            "AUTOVIBE_GATEWAY_HOLD_MODE": "strict",
            **(settings or {}),
        }
        async with running_hub(settings=chosen) as hub:
            yield hub, provider
