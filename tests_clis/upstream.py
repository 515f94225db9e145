"""A stand-in for the gateway that speaks both protocols and plays the turns of an agent by how many results it sends.

A request is answered by the number of tool results in it, so a conversation that was lost begins again from the first.
"""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from aiohttp import web

from tests.agent.provider import Block, events_of

Json = dict[str, object]
MESSAGE = "autovibe: the budget of this machine is used up"


@dataclass
class Upstream:
    """`turns[n]` answers a request that holds n tool results."""

    turns: Sequence[Block]
    refuse_from: int | None = None
    """From this many results on, every request is refused as a spent budget is."""
    before: Callable[[int], Awaitable[None]] | None = None
    """Called with the number of results before a request is answered: the boundary between two calls."""
    sent: list[Json] = field(default_factory=list[Json])
    refused: int = 0
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = cast("Json", await request.json())
        anthropic = request.path.endswith("/messages")
        if not body.get("tools") and self.turns[0].get("type") == "tool_use":
            return await _stream(request, body, {"type": "text", "text": "nothing"}, anthropic=anthropic)
        self.sent.append(body)
        done = _results(body)
        if self.before is not None:
            await self.before(done)
        if self.refuse_from is not None and done >= self.refuse_from:
            self.refused += 1
            return _refusal(anthropic=anthropic)
        block = self.turns[min(done, len(self.turns) - 1)]
        return await _stream(request, body, block, anthropic=anthropic)


def _refusal(*, anthropic: bool) -> web.Response:
    error: Json = {"type": "billing_error", "message": MESSAGE}
    body: Json = {"type": "error", "error": error} if anthropic else {"error": {**error, "code": "billing_error"}}
    return web.json_response(body, status=400, headers={"x-should-retry": "false"})


def _results(body: Json) -> int:
    """How many tool results the conversation in a request holds."""
    found = 0
    for message in cast("list[Json]", body["messages"]):
        content = message["content"]
        blocks = cast("list[Json]", content) if isinstance(content, list) else []
        found += message["role"] == "tool"
        found += sum(block.get("type") == "tool_result" for block in blocks)
    return found


async def _stream(request: web.Request, body: Json, block: Block, *, anthropic: bool) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    if anthropic:
        for event in events_of([block], "msg_1", str(body["model"])):
            await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        return response
    for chunk in _chunks(block):
        whole: Json = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": body["model"], **chunk}
        await response.write(b"data: " + json.dumps(whole).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


def _chunks(block: Block) -> list[Json]:
    delta: Json = {"role": "assistant", "content": block.get("text")}
    end = "stop"
    if block["type"] == "tool_use":
        function: Json = {"name": block["name"], "arguments": json.dumps(block["input"])}
        delta["tool_calls"] = [{"index": 0, "id": block["id"], "type": "function", "function": function}]
        end = "tool_calls"
    usage: Json = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    return [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": dict[str, object](), "finish_reason": end}]},
        {"choices": list[object](), "usage": usage},
    ]


@asynccontextmanager
async def upstream(*turns: Block) -> AsyncGenerator[Upstream]:
    made = Upstream(turns)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    for path in ("/v1/messages", "/v1/chat/completions"):
        app.router.add_post(path, made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()
