"""The processes of bench.gateway: a provider of models, a bare pass-through, and our gateway with its ledger in memory.

python -m bench.gateway_parts stub PORT | through PORT UPSTREAM | memory SECONDS-TO-SETTLE
"""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from decimal import Decimal

import aiohttp
import uvloop
from aiohttp import web

from events.ledger import Settle, Settled
from services.gateway.app import GatewaySettings, create_app
from services.kit.bus import Bus
from tests.gateway.ledger import MemoryLedger

CHUNKS = 20
HOLD = b'"user_id":"hold"'
"""In a request: the stream stops after its first chunk until the stub is asked for `/release`."""
USAGE = {"input_tokens": 9_000, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}


class SlowLedger(MemoryLedger):
    """Has money for everything, and takes so long to settle."""

    def __init__(self, settle_s: float) -> None:
        super().__init__(Decimal(1_000_000_000))
        self._settle_s = settle_s

    async def settle(self, ask: Settle) -> Settled:
        if self._settle_s:
            await asyncio.sleep(self._settle_s)
        return await super().settle(ask)


def event(name: str, **fields: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


def stream_events() -> list[bytes]:
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "bench-model", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": USAGE,
    }  # fmt: skip
    text = {"type": "text_delta", "text": "all of it is measured here "}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    return [
        event("message_start", message=message)
        + event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *[event("content_block_delta", index=0, delta=text)] * CHUNKS,
        event("content_block_stop", index=0)
        + event("message_delta", delta=end, usage={"output_tokens": 120})
        + event("message_stop"),
    ]


WHOLE = json.dumps(
    {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "bench-model",
        "content": [{"type": "text", "text": "all of it is measured here " * CHUNKS}],
        "stop_reason": "end_turn", "stop_sequence": None, "usage": {**USAGE, "output_tokens": 120},
    }
).encode()  # fmt: skip


def stub() -> web.Application:
    """A provider that answers at once: a whole message, or a stream of `CHUNKS` pieces, each written by itself."""
    events, released = stream_events(), asyncio.Event()

    async def messages(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if b'"stream":true' not in body and b'"stream": true' not in body:
            return web.Response(body=WHOLE, content_type="application/json")
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number, piece in enumerate(events):
            if number == 1 and HOLD in body:
                await released.wait()
            await response.write(piece)
        await response.write_eof()
        return response

    async def release(_request: web.Request) -> web.StreamResponse:
        released.set()
        return web.Response()

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/messages", messages)
    app.router.add_get("/release", release)
    return app


def through(upstream: str) -> web.Application:
    """The floor: what any proxy with aiohttp on both sides costs that reads and changes nothing."""
    app = web.Application(client_max_size=2**26)
    session: list[aiohttp.ClientSession] = []

    async def opened(_app: web.Application) -> None:
        session.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False))

    async def messages(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        async with session[0].post(upstream + request.path_qs, data=body, headers={"x": "y"}) as answer:
            response = web.StreamResponse(
                status=answer.status, headers={"content-type": answer.headers["content-type"]}
            )
            if "content-length" in answer.headers:
                response.content_length = int(answer.headers["content-length"])
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    app.on_startup.append(opened)
    app.router.add_post("/v1/messages", messages)
    return app


async def serve(app: web.Application, port: int) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


async def memory(settle_s: float) -> None:
    settings = GatewaySettings()
    async with AsyncExitStack() as exits:
        bus = await exits.enter_async_context(Bus.connect(settings, name="gateway"))
        await exits.enter_async_context(create_app(bus, settings, ledger=SlowLedger(settle_s)))
        await asyncio.Event().wait()


def main(role: str, given: str, upstream: str = "") -> None:
    match role:
        case "stub":
            work = serve(stub(), int(given))
        case "through":
            work = serve(through(upstream), int(given))
        case _:
            work = memory(float(given))
    uvloop.run(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
