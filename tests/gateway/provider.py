"""A provider of models for tests: what it answers is a test's, what it was asked it keeps."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
USAGE = {
    "input_tokens": 25,
    "cache_creation_input_tokens": 100,
    "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40},
    "cache_read_input_tokens": 1_000,
    "output_tokens": 1,
}


@dataclass(slots=True)
class Provider:
    """Answers in turn with what `script` holds, the last of it again and again."""

    script: list[Answer]
    port: int = 0
    heard: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list[tuple[str, dict[str, str], bytes]])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def body(self, number: int = -1) -> dict[str, object]:
        return orjson.loads(self.heard[number][2])

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.heard.append(
            (request.raw_path, {name.lower(): value for name, value in request.headers.items()}, await request.read())
        )
        turn = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return await turn(request)


@asynccontextmanager
async def provider(*script: Answer) -> AsyncGenerator[Provider]:
    served = Provider(list(script) or [streaming(*anthropic_events())])
    app = web.Application(client_max_size=1 << 28)
    app.router.add_route("*", "/{path:.*}", served.answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        served.port = runner.addresses[0][1]
        yield served
    finally:
        await runner.cleanup()


def event(data: object, name: str = "") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + (data if isinstance(data, bytes) else orjson.dumps(data)) + b"\n\n"


def anthropic_events(*texts: str, usage: dict[str, object] | None = None, output: int = 20) -> list[bytes]:
    """The events of an answer that says these texts."""
    start = {"type": "message_start", "message": {"id": "msg_1", "usage": usage if usage is not None else USAGE}}
    events = [event(start, "message_start")]
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    events.append(event(block, "content_block_start"))
    for text in texts or ("Hello", " there"):
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        events.append(event(delta, "content_block_delta"))
    events.append(event({"type": "content_block_stop", "index": 0}, "content_block_stop"))
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": output}}
    return [*events, event(end, "message_delta"), event({"type": "message_stop"}, "message_stop")]


def streaming(*chunks: bytes, cut: bool = False, gate: asyncio.Event | None = None, gate_after: int = 0) -> Answer:
    """Answer with these chunks; `gate` is waited for after so many of them; `cut`: break off in the end."""

    async def answer(request: web.Request) -> web.StreamResponse:
        headers = {"content-type": "text/event-stream", "request-id": "req_1"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for number, chunk in enumerate(chunks):
            if gate is not None and number == gate_after:
                await gate.wait()
            await response.write(chunk)
        if gate is not None and gate_after >= len(chunks):
            await gate.wait()
        if cut:
            assert request.transport is not None
            await asyncio.sleep(0)
            request.transport.abort()
            return response
        await response.write_eof()
        return response

    return answer


def saying(status: int, body: object, **headers: str) -> Answer:
    """Answer with a status and a body that is whole."""

    async def answer(request: web.Request) -> web.StreamResponse:
        del request
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return web.Response(status=status, body=content, headers={"content-type": "application/json", **named})

    return answer
