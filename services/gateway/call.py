"""The life of one model call: held, paid for, forwarded, passed back, settled.

Nothing is forwarded before its worst case is durably set aside; whatever happens after, the call is resolved exactly once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import aiohttp
import structlog
from aiohttp import web

from events.fresh import now
from events.ledger import Reserve
from services.gateway.account import Account, Accounts
from services.gateway.body import Asked
from services.gateway.context import Boundary, CallContext, Dialect, InFlight, RiskWatch
from services.gateway.exchange import ERROR_BYTES_MAX, Upstreamless, answer_headers, send, whole
from services.gateway.limits import Limits, WaitedTooLong, limits_of
from services.gateway.meters import Meters
from services.gateway.ratelimited import LIMITED, Cooldown, Holds, LimitedFor
from services.gateway.refusals import Refusal, RefusedCall, out_of_budget, unauthenticated, unreachable
from services.gateway.relay import Relay
from services.gateway.reply import ClientGone, Reply
from services.gateway.settings import GatewaySettings, Upstream
from services.gateway.tokens import Caller, Tokens
from services.gateway.usage import Json, Meter
from services.kit.errors import KitError

CLIENT_GONE = 499
"""Nobody hears it; it is what the field calls it in logs."""
_log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway")


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to ask for a model: how requests are read, bounded and metered."""

    name: str
    dialect: Dialect
    parse: Callable[[bytes, Json, Upstream], Asked]
    """From the request's bytes, and what they say."""
    clamp: Callable[[Asked, int], Asked]
    meter: Callable[[Asked], Meter]


@dataclass(frozen=True, slots=True)
class Parts:
    """What all calls share."""

    settings: GatewaySettings
    session: aiohttp.ClientSession
    accounts: Accounts
    tokens: Tokens
    boundary: Boundary
    limits: Limits
    holds: Holds
    cooldowns: dict[str, Cooldown]
    in_flight: InFlight
    meters: Meters
    spawn: Callable[[Awaitable[None]], asyncio.Task[None]]


@dataclass(frozen=True, slots=True)
class Question:
    """What one client asks of whom."""

    caller: Caller
    upstream: Upstream
    asked: Asked
    request: web.Request
    context: CallContext


class ModelCall:
    """One call of one incarnation."""

    def __init__(self, parts: Parts, kind: Kind, question: Question) -> None:
        self._parts = parts
        self._kind = kind
        self._caller = question.caller
        self._upstream = question.upstream
        self._asked = question.asked
        self._request = request = question.request
        self._call = question.context
        self._reply = Reply(request, kind.dialect)
        self._account: Account | None = None
        self._response: aiohttp.ClientResponse | None = None
        self._meter: Meter | None = None
        self._relay: Relay | None = None
        self._sent_at = time.monotonic()
        self._is_cut = False

    async def run(self) -> web.StreamResponse:
        """Make the call and answer it. A cancellation means that the client has gone, or that the incarnation is over."""
        task = asyncio.current_task()
        assert task is not None, "a request is handled by a task"

        def cut() -> None:
            self._is_cut = True
            task.cancel()

        try:
            with self._parts.tokens.bound(self._caller, cut):
                return await self._answered()
        except ClientGone:
            return web.Response(status=CLIENT_GONE)
        except asyncio.CancelledError:
            if self._is_cut:
                self._reply.cut()
            raise
        finally:
            self._leave()

    async def _answered(self) -> web.StreamResponse:
        try:
            return await self._made()
        except RefusedCall as refused:
            self._parts.meters.refused(self._upstream.name, refused.refusal.kind)
            _log.info("call.refused", **refused.refusal.told())
            return await self._reply.refuse(refused.refusal)

    async def _made(self) -> web.StreamResponse:
        async with AsyncExitStack() as places:
            async with self._kept_alive():
                with self._held():
                    await self._parts.boundary.between_calls(self._call, self._asked.body)
                    await self._turn(places)
                    self._account = account = await self._reserve()
                    if not self._parts.tokens.lives(self._caller.machine_id, self._caller.epoch):
                        raise RefusedCall(unauthenticated("this incarnation of the machine is over"))
                    self._asked = self._kind.clamp(self._asked, account.output_tokens_max)
                response = await self._forward(account)
            return await self._pass_back(account, response)

    @contextmanager
    def _held(self) -> Generator[None]:
        parts, machine_id = self._parts, self._caller.machine_id
        began = time.monotonic()
        parts.in_flight.held(machine_id)
        try:
            yield
        finally:
            parts.in_flight.released(machine_id)
            parts.meters.held(time.monotonic() - began)

    def _kept_alive(self) -> AbstractAsyncContextManager[None]:
        if not self._asked.stream:
            return nullcontext()
        settings = self._parts.settings
        return self._reply.kept_alive(settings.gateway_keepalive_after_s, settings.gateway_keepalive_every_s)

    async def _turn(self, places: AsyncExitStack) -> None:
        """Wait for our own rate limits."""
        limits = limits_of(self._parts.settings, self._caller, self._upstream)
        tokens = self._asked.input_tokens_max + self._asked.output_tokens_max
        try:
            await self._parts.limits.enter(places, limits, tokens, self._wait_s)
        except WaitedTooLong:
            said = f"no turn within {self._wait_s:g} s: this hub's own rate limits let no more calls through"
            raise RefusedCall(Refusal("overloaded_error", said, retry_after_s=30)) from None

    @property
    def _wait_s(self) -> float:
        settings = self._parts.settings
        return settings.gateway_wait_s if self._asked.stream else settings.gateway_wait_silent_s

    async def _reserve(self) -> Account:
        asked, call = self._asked, self._call
        return await self._parts.accounts.reserve(
            Reserve(
                call_id=call.call_id,
                project=call.project,
                machine_id=call.machine_id,
                epoch=call.epoch,
                provider=self._upstream.price_provider or self._upstream.name,
                model=asked.model,
                input_tokens_max=asked.input_tokens_max,
                cache_write=asked.cache_write,
                output_tokens_max=asked.output_tokens_max,
                output_tokens_min=asked.output_tokens_min,
                server_tools=asked.server_tools,
                speed=asked.speed,
                mode=self._parts.settings.gateway_hold_mode,
                wait_s=self._wait_s,
                session_id=self._request.headers.get("x-claude-code-session-id", "")[:200] or None,
            )
        )

    async def _forward(self, account: Account) -> aiohttp.ClientResponse:
        """Send it, again where the provider's rate limit is short; return what has an answer for the client."""
        cooldown, waited_s = self._parts.cooldowns[self._upstream.name], 0.0
        while True:
            try:
                async with cooldown.asking():
                    response = await self._send(account)
                    if response.status not in LIMITED:
                        cooldown.accepted()
                        return response
                    wait_s = cooldown.refused(response.headers)
            except LimitedFor as limited:
                return await self._limited(account, limited.wait_s)
            waited_s += wait_s
            if waited_s > self._parts.settings.gateway_rate_wait_s:
                if response.status != 429:
                    return response
                response.release()
                return await self._limited(account, wait_s)
            response.release()
            self._parts.meters.waited_out(self._upstream.name)

    async def _limited(self, account: Account, wait_s: float) -> aiohttp.ClientResponse:
        """Have the machine park until the provider takes calls again."""
        self._parts.accounts.void(account, f"the rate limit of {self._upstream.name}", http_status=429)
        try:
            await self._parts.holds.hold(self._caller, self._upstream.name, wait_s)
        except KitError as error:
            raise RefusedCall(unreachable("the log cannot be reached")) from error
        said = f"the rate limit of {self._upstream.name} ends in {wait_s:.0f} s; the machine parks and goes on by itself then"
        raise RefusedCall(out_of_budget(said))

    async def _send(self, account: Account) -> aiohttp.ClientResponse:
        parts = self._parts
        account.began_at = now()
        self._sent_at = time.monotonic()
        self._meter = self._kind.meter(self._asked)
        self._response = None
        path_qs = self._request.rel_url.raw_path_qs
        try:
            response = await send(parts.session, self._upstream, path_qs, self._asked.raw, self._request.headers)
        except Upstreamless as nothing:
            parts.meters.answered(self._upstream.name, 0)
            if not nothing.was_sent:
                parts.accounts.void(account, str(nothing))
            else:
                account.http_status = 0
                self._settle(account, str(nothing), in_doubt=True)
            _log.warning("upstream.silent", upstream=self._upstream.name, reason=str(nothing))
            raise RefusedCall(Refusal("overloaded_error", str(nothing), retry_after_s=5)) from nothing
        except KitError as error:
            parts.accounts.void(account, str(error))
            raise RefusedCall(Refusal("api_error", str(error))) from error
        self._response = response
        parts.meters.answered(self._upstream.name, response.status)
        account.http_status = response.status
        account.request_id = (response.headers.get("request-id") or response.headers.get("x-request-id", ""))[
            :200
        ] or None
        return response

    async def _pass_back(self, account: Account, response: aiohttp.ClientResponse) -> web.StreamResponse:
        if response.status != 200:
            return await self._failed(account, response)
        if self._asked.stream and response.content_type == "text/event-stream":
            return await self._streamed(account, response)
        return await self._whole(account, response)

    async def _failed(self, account: Account, response: aiohttp.ClientResponse) -> web.StreamResponse:
        """The provider refused: the client is told in its words, and nothing was spent."""
        self._parts.accounts.void(
            account, f"{self._upstream.name} answered {response.status}", http_status=response.status
        )
        try:
            body = await whole(response, ERROR_BYTES_MAX, 30.0)
        except Upstreamless as error:
            raise RefusedCall(Refusal("api_error", str(error), retry_after_s=5)) from error
        if response.status < 400:
            said = f"{self._upstream.name} answered {response.status}, which is no answer to a model call"
            raise RefusedCall(Refusal("api_error", said))
        if self._reply.has_begun:
            prefix = b"event: error\n" if self._kind.dialect is Dialect.ANTHROPIC else b""
            await self._reply.write(prefix + b"data: " + b" ".join(body.split()) + b"\n\n")
            return await self._reply.end()
        return web.Response(status=response.status, body=body, headers=answer_headers(response.headers))

    async def _whole(self, account: Account, response: aiohttp.ClientResponse) -> web.StreamResponse:
        settings, meter = self._parts.settings, self._metering()
        try:
            body = await whole(response, settings.gateway_answer_bytes_max, settings.gateway_call_s_max)
        except Upstreamless as error:
            meter.usage.may_hide = True
            self._settle(account, str(error))
            raise RefusedCall(Refusal("api_error", str(error), retry_after_s=5)) from error
        account.first_chunk_ms = self._since_sent_ms()
        tools = meter.on_body(body)
        self._settle(account, "")
        watch = self._parts.boundary.risk_watch(self._call) if tools else None
        for name, given in tools if watch else ():
            await watch.on_tool(name, given) if watch else None
        if self._reply.has_begun:
            await self._reply.write(b"data: " + body + b"\n\n")
            return await self._reply.end()
        return web.Response(status=200, body=body, headers=answer_headers(response.headers))

    async def _streamed(self, account: Account, response: aiohttp.ClientResponse) -> web.StreamResponse:
        settings, meter = self._parts.settings, self._metering()
        watch: RiskWatch | None = self._parts.boundary.risk_watch(self._call)
        await self._reply.begin(200, answer_headers(response.headers))
        self._relay = relay = Relay(meter, self._reply, watch, whole_events=self._asked.drops_usage)
        broke = ""
        try:
            async with asyncio.timeout(settings.gateway_call_s_max):
                async for chunk in response.content.iter_any():
                    await relay.feed(chunk)
                    if account.first_chunk_ms is None:
                        account.first_chunk_ms = self._since_sent_ms()
                        self._parts.meters.first_chunk(account.first_chunk_ms / 1_000)
                    if account.observing is None and meter.usage.input is not None and not meter.usage.is_complete:
                        self._parts.accounts.observe(account, meter.usage, settings.gateway_observe_after_s)
                    if relay.received > settings.gateway_answer_bytes_max:
                        broke = f"it is longer than {settings.gateway_answer_bytes_max} bytes"
                        break
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            broke = repr(error)
        if broke:
            broke = f"the answer of {self._upstream.name} broke off after {relay.received} bytes: {broke}"
            response.close()
        self._end(account, broke, in_doubt=True)
        await relay.finish()
        if broke:
            await self._reply.write(b"\n\n" if relay.is_amid_event else b"")
            return await self._reply.refuse(Refusal("api_error", broke))
        return await self._reply.end()

    def _metering(self) -> Meter:
        assert self._meter is not None, "a call that was sent is metered"
        return self._meter

    def _end(self, account: Account, broke: str, *, in_doubt: bool) -> None:
        """Resolve a call whose stream has ended, or is not read any further."""
        usage = self._metering().usage
        if usage.error and not usage.has_begun:
            said = f"{self._upstream.name} gave up before the first token: {usage.error}"
            self._parts.accounts.void(account, said, http_status=account.http_status)
        else:
            self._settle(account, broke or usage.error, in_doubt=in_doubt)

    def _settle(self, account: Account, reason: str, *, in_doubt: bool = False) -> None:
        """Post what was used; `in_doubt`: where nothing could be read, it may have been as much as was set aside."""
        usage = self._metering().usage
        usage.may_hide = usage.may_hide or (in_doubt and not usage.has_begun)
        self._parts.meters.settled(self._upstream.name, estimated=not usage.is_complete)
        self._parts.accounts.settle(account, usage, reason=reason)

    def _since_sent_ms(self) -> int:
        return round((time.monotonic() - self._sent_at) * 1_000)

    def _leave(self) -> None:
        """Resolve what is not: the client has gone, or the incarnation is over."""
        account, response = self._account, self._response
        if account is None or account.is_resolved:
            if response is not None:
                response.release()
            return
        if self._meter is None:
            self._parts.accounts.void(account, "it was not forwarded")
        elif response is None:
            self._settle(
                account, "whoever asked has gone before the provider answered", in_doubt=not self._asked.stream
            )
        elif response.status != 200:
            response.release()
            self._parts.accounts.void(
                account, f"{self._upstream.name} answered {response.status}", http_status=response.status
            )
        else:
            self._parts.spawn(self._drain(account, response))

    async def _drain(self, account: Account, response: aiohttp.ClientResponse) -> None:
        """Read on for a moment, for what the provider says was used, then hang up."""
        meter = self._metering()
        relay = self._relay or Relay(meter, self._reply, None, whole_events=False)
        parts: list[bytes] = []
        meter.usage.may_hide = meter.usage.may_hide or not self._asked.stream
        try:
            async with asyncio.timeout(self._parts.settings.gateway_drain_s):
                async for chunk in response.content.iter_any():
                    if self._asked.stream:
                        relay.read(chunk)
                    else:
                        parts.append(chunk)
            if not self._asked.stream:
                meter.on_body(b"".join(parts))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            _log.info("answer.not_drained", call_id=str(self._call.call_id), reason=repr(error))
        response.close()
        broke = "" if meter.usage.is_complete else "whoever asked has gone before the answer was whole"
        self._end(account, broke, in_doubt=False)
