"""A stand-in for the gateway: it answers the Messages API with given replies, by how many turns the request holds."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from aiohttp import web

Block = dict[str, object]
Sent = dict[str, object]


def text(words: str) -> Block:
    return {"type": "text", "text": words}


def call(use_id: str, name: str, **given: object) -> Block:
    return {"type": "tool_use", "id": use_id, "name": name, "input": given}


@dataclass
class Provider:
    """`replies[n]` answers a request with n assistant messages; a number is a status with a refusal."""

    replies: Sequence[Sequence[Block] | int]
    sent: list[Sent] = field(default_factory=list[Sent])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    url: str = ""

    async def messages(self, request: web.Request) -> web.StreamResponse:
        body = cast("Sent", await request.json())
        self.sent.append(body)
        self.headers.append(dict(request.headers))
        turns = sum(message["role"] == "assistant" for message in cast("list[dict[str, object]]", body["messages"]))
        reply = self.replies[turns]
        if isinstance(reply, int):
            error = {"type": "error", "error": {"type": "billing_error", "message": "autovibe: the budget is spent"}}
            return web.json_response(error, status=reply, headers={"x-should-retry": "false"})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in events_of(reply, f"msg_{turns}", str(body["model"])):
            await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        return response


def events_of(blocks: Sequence[Block], message_id: str, model: str) -> list[Block]:
    message: Block = {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": list[object](),
    }
    message["usage"] = {"input_tokens": 10, "output_tokens": 1}
    events: list[Block] = [{"type": "message_start", "message": message}]
    for index, block in enumerate(blocks):
        start: Block = {"type": "text", "text": ""}
        delta: Block = {"type": "text_delta", "text": block.get("text")}
        if block["type"] == "tool_use":
            start = {**block, "input": dict[str, object]()}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events.append({"type": "content_block_delta", "index": index, "delta": delta})
        events.append({"type": "content_block_stop", "index": index})
    calls = any(block["type"] == "tool_use" for block in blocks)
    stop: Block = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
    events.append({"type": "message_delta", "delta": stop, "usage": {"output_tokens": 20}})
    events.append({"type": "message_stop"})
    return events


@asynccontextmanager
async def provider(*replies: Sequence[Block] | int) -> AsyncGenerator[Provider]:
    made = Provider(replies)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/messages", made.messages)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()
