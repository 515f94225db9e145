"""The rehearsal model's server: Anthropic Messages and OpenAI chat completions, embeddings and models, by scripts.

It asks for no credential, needs no bus, and keeps its own bill.
"""

import hashlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from aiohttp import web

from services.rehearsal import dialects
from services.rehearsal.bill import BYTES_PER_TOKEN, Bill, Charge, usage
from services.rehearsal.dialects import Asked, Json, Reply
from services.rehearsal.script import Part, Script, part, read
from services.rehearsal.tools import call, without_tools

BODY_BYTES_MAX = 64 * 1024 * 1024
MODELS = ("rehearsal-sonnet", "rehearsal-haiku")
OUTPUT_TOKENS_MAX = 64_000
PRICES: tuple[Mapping[str, str], ...] = (
    {
        "model": "rehearsal-*",
        "provider": "rehearsal",
        "input": "3",
        "output": "15",
        "cache_read": "0.3",
        "cache_write_5m": "3.75",
        "cache_write_1h": "6",
        "currency": "USD",
    },
)
"""What the hub is to reckon with, per million tokens; the bill reckons by itself (`NANO_PER_TOKEN`)."""


class Rehearsal:
    """The server's handlers, its scripts and its bill."""

    def __init__(self, scripts: Sequence[Script], workspace: str = "/workspace") -> None:
        self._scripts = tuple(scripts)
        self._workspace = workspace
        self.bill = Bill()
        self.requests = 0
        self.credentials: set[str] = set()
        """Every one that it was shown; none is asked for."""

    def app(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post("/v1/messages", self.messages)
        app.router.add_post("/v1/messages/count_tokens", self.count_tokens)
        app.router.add_post("/v1/chat/completions", self.completions)
        app.router.add_post("/v1/embeddings", self.embeddings)
        app.router.add_get("/v1/models", self.models)
        return app

    async def messages(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self.credentials.add(request.headers.get("x-api-key") or request.headers.get("Authorization", ""))
        asked = dialects.asked_anthropic(_object(raw), raw)
        reply = self._reply(asked, raw, "toolu", "msg")
        headers = {
            "request-id": _id("req", raw, self.requests),
            "anthropic-ratelimit-requests-limit": "1000",
            "anthropic-ratelimit-requests-remaining": "999",
        }
        self.bill.charge(Charge(headers["request-id"], asked.model, reply.usage))
        if not asked.stream:
            return web.json_response(dialects.anthropic_message(reply), headers=headers)
        return await _stream(request, dialects.anthropic_stream(reply), headers)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        asked = dialects.asked_openai(_object(raw))
        reply = self._reply(asked, raw, "call", "chatcmpl")
        headers = {"x-request-id": _id("req", raw, self.requests)}
        self.bill.charge(Charge(headers["x-request-id"], asked.model, reply.usage))
        if not asked.stream:
            return web.json_response(dialects.openai_completion(reply), headers=headers)
        return await _stream(request, dialects.openai_stream(reply, wants_usage=asked.wants_usage), headers)

    async def count_tokens(self, request: web.Request) -> web.Response:
        return web.json_response({"input_tokens": max(1, len(await request.read()) // BYTES_PER_TOKEN)})

    async def embeddings(self, request: web.Request) -> web.Response:
        raw = await request.read()
        body = _object(raw)
        given = body.get("input")
        texts = [str(each) for each in cast("list[object]", given)] if isinstance(given, list) else [str(given)]
        vectors = [
            {"object": "embedding", "index": index, "embedding": _vector(text)} for index, text in enumerate(texts)
        ]
        tokens = max(1, sum(map(len, texts)) // BYTES_PER_TOKEN)
        used = {"prompt_tokens": tokens, "total_tokens": tokens}
        return web.json_response({"object": "list", "data": vectors, "model": body.get("model"), "usage": used})

    async def models(self, request: web.Request) -> web.Response:
        if "anthropic-version" in request.headers:
            listed = [{"type": "model", "id": model, "display_name": model} for model in MODELS]
            return web.json_response({"data": listed, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]})
        return web.json_response({"object": "list", "data": [{"id": model, "object": "model"} for model in MODELS]})

    def _reply(self, asked: Asked, raw: bytes, call_prefix: str, id_prefix: str) -> Reply:
        self.requests += 1
        here = part(self._scripts, asked.text, asked.call_ids)
        text, calls = self._played(here, asked, call_prefix)
        size = len(text) + sum(len(json.dumps(tool.input)) for _, tool in calls)
        used = usage(len(raw), size, asked.cache, first=not asked.call_ids)
        is_cut = bool(asked.output_tokens_max) and used.output > asked.output_tokens_max
        if is_cut:
            text, calls = text[: asked.output_tokens_max * BYTES_PER_TOKEN], ()
            used = usage(
                len(raw), min(size, asked.output_tokens_max * BYTES_PER_TOKEN), asked.cache, first=not asked.call_ids
            )
        return Reply(_id(id_prefix, raw, self.requests), asked.model, text, calls, used, is_cut)

    def _played(self, here: Part, asked: Asked, prefix: str) -> tuple[str, tuple[tuple[str, dialects.Tool], ...]]:
        if not asked.tools:
            return without_tools(here.script, asked.answered), ()
        calls = tuple(
            (here.call_id(index, prefix), tool)
            for index, doing in enumerate(here.turn.do)
            if (tool := call(doing, asked.tools, self._workspace)) is not None
        )
        return here.turn.say, calls


@asynccontextmanager
async def running(
    scripts: Sequence[Path], host: str = "127.0.0.1", port: int = 0
) -> AsyncGenerator[tuple[Rehearsal, str]]:
    """Serve until the block ends; yields the model and its URL.

    Raises:
        BadScript: A script cannot be read.
        OSError: The port cannot be listened on.
    """
    rehearsal = Rehearsal(read(scripts))
    runner = web.AppRunner(rehearsal.app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield rehearsal, f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _stream(
    request: web.Request, events: "dialects.Iterator[bytes]", headers: Mapping[str, str]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache", **headers})
    await response.prepare(request)
    for event in events:
        await response.write(event)
    await response.write_eof()
    return response


def _object(raw: bytes) -> Json:
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise _invalid(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise _invalid("the body is not a JSON object")
    return cast("Json", body)


def _invalid(message: str) -> web.HTTPBadRequest:
    said = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    return web.HTTPBadRequest(text=json.dumps(said), content_type="application/json")


def _id(prefix: str, raw: bytes, number: int) -> str:
    return f"{prefix}_reh{number:06d}{hashlib.blake2s(raw, digest_size=6).hexdigest()}"


def _vector(text: str) -> list[float]:
    return [byte / 255 for byte in hashlib.blake2s(text.encode()).digest()]
