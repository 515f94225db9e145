"""The gateway's routes: who asks, for what, and whether it may."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from events.fresh import uuid7
from services.gateway import anthropic, openai
from services.gateway.body import read
from services.gateway.call import Kind, ModelCall, Parts, Question
from services.gateway.context import CallContext, Dialect
from services.gateway.exchange import ERROR_BYTES_MAX, Upstreamless, answer_headers, send, whole
from services.gateway.models import Catalogue
from services.gateway.refusals import (
    Refusal,
    RefusedCall,
    invalid,
    model_not_allowed,
    model_not_offered,
    out_of_budget,
    too_large,
    unauthenticated,
)
from services.gateway.settings import BODY_BYTES_MAX, Upstream, upstream_of
from services.gateway.tokens import Caller
from services.gateway.usage import Json, as_text

MACHINE_HEADER = "x-api-key"
MODEL_CHARS_MAX = 200
_UNKNOWN = "no token of a machine that runs now: it is good for one machine and one epoch, and ends with it"
_log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway")


class Routes:
    """All that is answered."""

    def __init__(self, parts: Parts, upstreams: tuple[Upstream, ...]) -> None:
        self._parts = parts
        self._upstreams = upstreams
        self._catalogue = Catalogue(parts.session, upstreams)
        uses_max = parts.settings.gateway_server_tools_uses_max
        self._messages = Kind(
            "messages",
            Dialect.ANTHROPIC,
            lambda raw, body, upstream: anthropic.parse(raw, body, upstream, uses_max),
            anthropic.clamped,
            lambda _: anthropic.AnthropicMeter(),
        )
        self._chat = Kind(
            "chat",
            Dialect.OPENAI,
            openai.parse_chat,
            openai.clamped,
            lambda asked: openai.OpenaiMeter(drops_usage=asked.drops_usage),
        )
        self._embeddings = Kind(
            "embeddings", Dialect.OPENAI, openai.parse_embeddings, openai.clamped, lambda _: openai.OpenaiMeter()
        )

    def app(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post("/v1/messages", self._calls(self._messages))
        app.router.add_post("/v1/chat/completions", self._calls(self._chat))
        app.router.add_post("/v1/embeddings", self._calls(self._embeddings))
        app.router.add_post("/v1/messages/count_tokens", self.count_tokens)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/v1/models/{model:.+}", self.models)
        app.router.add_route("*", "/{path:.*}", self.nothing_here)
        return app

    def _calls(self, kind: Kind) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                caller = self._authenticated(request)
                self._refuse_crowd()
                raw = await self._body(request)
                return await self._call(kind, caller, request, raw)
            except RefusedCall as refused:
                return _refused(refused.refusal, kind.dialect)

        return handle

    async def _call(self, kind: Kind, caller: Caller, request: web.Request, raw: bytes) -> web.StreamResponse:
        raw, body = read(raw)
        upstream = self._chosen(kind.dialect, caller, body)
        asked = kind.parse(raw, body, upstream)
        if (held := self._parts.tokens.held(caller.machine_id)) is not None:
            refusal = out_of_budget(f"the machine parks ({held.hold}): {held.reason}")
            _log.info("call.refused", machine_id=str(caller.machine_id), **refusal.told())
            raise RefusedCall(refusal)
        context = CallContext(caller.project, caller.machine_id, caller.epoch, uuid7(), kind.dialect)
        with structlog.contextvars.bound_contextvars(machine_id=str(caller.machine_id)):
            in_flight = self._parts.in_flight
            in_flight.opened(caller.machine_id)
            try:
                return await ModelCall(self._parts, kind, Question(caller, upstream, asked, request, context)).run()
            finally:
                in_flight.closed(caller.machine_id)

    async def count_tokens(self, request: web.Request) -> web.StreamResponse:
        """Pass a question for the number of tokens on; it is free, and an estimate."""
        try:
            caller = self._authenticated(request)
            raw = await self._body(request)
            raw, body = read(raw)
            upstream = self._chosen(Dialect.ANTHROPIC, caller, body)
            response = await send(self._parts.session, upstream, request.rel_url.raw_path_qs, raw, request.headers)
            body = await whole(response, ERROR_BYTES_MAX, 60.0)
        except RefusedCall as refused:
            return _refused(refused.refusal, Dialect.ANTHROPIC)
        except Upstreamless as nothing:
            return _refused(Refusal("overloaded_error", str(nothing), retry_after_s=5), Dialect.ANTHROPIC)
        return web.Response(status=response.status, body=body, headers=answer_headers(response.headers))

    async def models(self, request: web.Request) -> web.StreamResponse:
        """List the models that the caller may use, in the words of the protocol it speaks."""
        dialect = Dialect.ANTHROPIC if "anthropic-version" in request.headers else Dialect.OPENAI
        try:
            caller = self._authenticated(request)
        except RefusedCall as refused:
            return _refused(refused.refusal, dialect)
        names = [
            name for name in await self._catalogue.models(dialect) if self._parts.tokens.may_use(caller.project, name)
        ]
        wanted = request.match_info.get("model")
        if wanted is None:
            return web.json_response(self._catalogue.listing(dialect, names))
        if wanted in names or (
            self._parts.tokens.may_use(caller.project, wanted) and upstream_of(self._upstreams, dialect, wanted)
        ):
            return web.json_response(self._catalogue.one(dialect, wanted))
        return _refused(
            Refusal("not_found_error", f"no upstream offers model {wanted[:200]}", code="model_not_found"), dialect
        )

    async def nothing_here(self, request: web.Request) -> web.StreamResponse:
        dialect = Dialect.ANTHROPIC if "anthropic-version" in request.headers else Dialect.OPENAI
        return _refused(Refusal("not_found_error", f"{request.method} {request.path[:200]}: there is nothing"), dialect)

    def _authenticated(self, request: web.Request) -> Caller:
        caller = self._parts.tokens.caller(request.headers.get(MACHINE_HEADER, "").strip())
        if caller is None:
            scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
            caller = self._parts.tokens.caller(bearer.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise RefusedCall(unauthenticated(_UNKNOWN))
        return caller

    def _refuse_crowd(self) -> None:
        most = self._parts.settings.gateway_connections_max
        if self._parts.in_flight.total >= most:
            raise RefusedCall(Refusal("overloaded_error", f"{most} calls are open, which is all", retry_after_s=5))

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._parts.settings.gateway_body_s):
                return await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise RefusedCall(too_large(BODY_BYTES_MAX)) from error
        except TimeoutError as error:
            raise RefusedCall(invalid("the request did not arrive in time")) from error

    def _chosen(self, dialect: Dialect, caller: Caller, body: Json) -> Upstream:
        model = as_text(body.get("model"))
        if not model or len(model) > MODEL_CHARS_MAX:
            raise RefusedCall(invalid(f"model: a text of 1 to {MODEL_CHARS_MAX} characters is needed"))
        if not self._parts.tokens.may_use(caller.project, model):
            raise RefusedCall(model_not_allowed(model, caller.project))
        upstream = upstream_of(self._upstreams, dialect, model)
        if upstream is None:
            raise RefusedCall(model_not_offered(model))
        return upstream


def _refused(refusal: Refusal, dialect: Dialect) -> web.Response:
    headers = {"content-type": "application/json", **refusal.headers()}
    return web.Response(status=refusal.status, body=refusal.body(dialect), headers=headers)


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int, stop_s: float) -> AsyncGenerator[int]:
    """Serve inside the block; in the end open calls get `stop_s`. Yields the port, for those who asked for a free one.

    Raises:
        OSError: The address is in use or none of this host.
    """
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=stop_s, auto_decompress=True
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=512)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
