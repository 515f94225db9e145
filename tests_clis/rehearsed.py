"""A hub whose provider is the rehearsal model: it hears every request that the gateway forwards, and can keep one waiting."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from services.rehearsal.app import PRICES, Rehearsal
from services.rehearsal.script import read
from tests.harness.hub import RunningHub, running_hub
from tests_clis.conftest import Installed

GOAL = "Have the greeting reach the whole world"
"""It names no file: Aider takes those that are named at once, and is to ask."""
BEFORE = 'print("hello")\n'
AFTER = 'print("hello, world")\n'
LOOKS = "I look at greeting.py before I change it."
SCRIPT = f"""
name = "greeting"
match = "{GOAL}"

[[turns]]
say = "{LOOKS}"
do = [{{ read = "greeting.py" }}]

[[turns]]
say = "Now it greets the world."
do = [{{ write = "greeting.py", content = '''{AFTER}''' }}]

[[turns]]
say = "I keep what it looks like."
do = [{{ run = "cat greeting.py > seen.txt" }}]

[[turns]]
say = "It greets the world."
"""


@dataclass
class Provider:
    """The rehearsal model with ears."""

    model: Rehearsal
    url: str = ""
    heard: list[str] = field(default_factory=list[str])
    """Every request, oldest first."""
    waits_at: int | None = None
    """The request of this number, from 0, is never answered: whoever asked is between two calls for good."""
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        number = len(self.heard)
        self.heard.append(await request.text())
        if number == self.waits_at:
            self.waiting.set()
            await self._over.wait()
            return web.Response(status=503)
        return await handler(request)

    def keep_waiting(self, number: int) -> None:
        """Keep the request of this number, counted from now on, waiting."""
        self.waits_at = len(self.heard) + number
        self.waiting.clear()

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
async def rehearsed_hub(installed: Installed, directory: Path) -> AsyncGenerator[tuple[RunningHub, Provider]]:
    """Give a hub that has the agents and this provider; machines themselves cost nothing, so that calls are all there is."""
    (directory / "greeting.toml").write_text(SCRIPT)
    async with Provider(Rehearsal(read([directory / "greeting.toml"]))).serving() as provider:
        upstreams = [
            {"name": name, "protocol": name, "base_url": provider.url, "price_provider": "rehearsal"}
            for name in ("anthropic", "openai")
        ]
        settings = {
            **{f"AUTOVIBE_{name.upper()}": value for name, value in asdict(installed).items()},
            **dict.fromkeys(("AUTOVIBE_VCPU_HOUR_CAD", "AUTOVIBE_GIB_HOUR_CAD", "AUTOVIBE_STORAGE_GIB_HOUR_CAD"), "0"),
            "AUTOVIBE_GATEWAY_UPSTREAMS": json.dumps(upstreams),
            "AUTOVIBE_PRICES_OWN": json.dumps([{**price, "model": "*"} for price in PRICES]),
            "AUTOVIBE_PRICES_PACKAGED": "false",
            "AUTOVIBE_GATEWAY_HOLD_MODE": "strict",
            "AUTOVIBE_LOG_LEVEL": "info",
        }
        async with running_hub(settings=settings) as hub:
            yield hub, provider
