"""Reactors: handlers of durable consumers. FastStream pulls, one message per subscriber at a time, acknowledged by us.

A handler that returns is acknowledged. `Later` comes again after its delay, `Never` is buried, any other error comes
again with growing pauses and is buried after `attempts_max` failures in this process. `Transient` and `LogFull` (the
log or database is away) are never buried. A message that cannot be read is buried at once. Burying comes before terminating.
What agents report is untrusted: what cannot be read of it, or is refused with `Never`, becomes a `Rejected` record, and
what a handler failed at is kept cut, and only some of it per machine.
Messages of one aggregate are handled one at a time and in order, except that a delayed one is overtaken.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

import orjson
import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from events.envelope import Recorded
from events.records import Problem
from services.kit import broker, dead, rejected
from services.kit.broker import NatsMessage
from services.kit.bus import Bus
from services.kit.delivery import Killer, Later, Never, Poison, Report, report_of
from services.kit.errors import KitError, LogFull, Refused, Transient
from services.kit.health import Health, Part
from services.kit.message import RawMessage, decode
from services.kit.metrics import Metrics
from services.kit.routes import (
    Reactor,
    Route,
    about_event,
    about_raw,
    about_report,
    aggregate_of,
    as_it_is,
    covers,
    stored_message,
)
from services.kit.wire import ApiError, integer, mapping

ATTEMPTS_MAX = 10
CRASHES_MAX = 50
"""Deliveries after which a message is buried unseen: it has been killing the process."""
PAUSE_MIN_S = 0.2
PAUSE_MAX_S = 30.0
BURIAL_PAUSE_S = 10.0
ERROR_CHARS_MAX = 2_000
PROGRESS_EVERY_S = 10.0
STALLED_S = 60.0
CATCHING_UP_LOOK_S = 0.1
AT_WORK_MAX_S = 600.0
"""A handler that takes longer hangs: the longest there are wait for a capture (300 s) or a restore."""
_log: structlog.stdlib.BoundLogger = structlog.get_logger("reactor")


class Reactors:
    """The handlers of a service; `running()` starts them and stops them after what is at work."""

    def __init__(self, bus: Bus, service: str, metrics: Metrics | None = None) -> None:
        self._bus = bus
        self.service = service
        self._metrics = metrics or Metrics(service)
        self._reactors: list[Reactor] = []

    def on(
        self,
        *,
        stream: str,
        durable: str,
        subjects: Sequence[str],
        concurrency: int = 1,
        attempts_max: int = ATTEMPTS_MAX,
    ) -> Callable[[Callable[[Recorded], Awaitable[None]]], Callable[[Recorded], Awaitable[None]]]:
        """Hear events of the log.

        Several handlers may share a durable when their subjects differ; the durable's own filters, in
        `schema/streams.py`, must cover them. `concurrency` and `attempts_max` are the largest that any of them asks.
        """
        reactor = self._reactor(stream, durable, concurrency, attempts_max)

        def register(handler: Callable[[Recorded], Awaitable[None]]) -> Callable[[Recorded], Awaitable[None]]:
            reactor.routes.append(Route(tuple(subjects), handler, decode, about_event))
            return handler

        return register

    def on_report(
        self,
        *,
        stream: str,
        durable: str,
        subjects: Sequence[str],
        concurrency: int = 1,
        attempts_max: int = ATTEMPTS_MAX,
    ) -> Callable[[Callable[[Report], Awaitable[None]]], Callable[[Report], Awaitable[None]]]:
        """Hear what agents report."""
        reactor = self._reactor(stream, durable, concurrency, attempts_max)
        reactor.of_agents = True

        def register(handler: Callable[[Report], Awaitable[None]]) -> Callable[[Report], Awaitable[None]]:
            reactor.routes.append(Route(tuple(subjects), handler, report_of, about_report))
            return handler

        return register

    def on_raw(
        self,
        *,
        stream: str,
        durable: str,
        subjects: Sequence[str],
        concurrency: int = 1,
        attempts_max: int = ATTEMPTS_MAX,
    ) -> Callable[[Callable[[RawMessage], Awaitable[None]]], Callable[[RawMessage], Awaitable[None]]]:
        """Hear messages as they are, for a handler that judges them itself (the door)."""
        reactor = self._reactor(stream, durable, concurrency, attempts_max)

        def register(handler: Callable[[RawMessage], Awaitable[None]]) -> Callable[[RawMessage], Awaitable[None]]:
            reactor.routes.append(Route(tuple(subjects), handler, as_it_is, about_raw))
            return handler

        return register

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Hear and handle inside the block.

        Raises:
            Refused: A durable does not exist, or does not hear what was asked for.
        """
        for reactor in self._reactors:
            await self._check_durable(reactor)
        app = broker.BusBroker(self._bus)
        for reactor in self._reactors:
            for _ in range(reactor.concurrency):
                broker.subscribe(app, reactor.stream, reactor.durable, self._consumer(reactor))
        retries = [
            await self._bus.nc.subscribe(
                dead.retry_subject(reactor.durable), queue=self.service, cb=self._retry_handler(reactor)
            )
            for reactor in self._reactors
        ]
        await app.start()
        try:
            yield
        finally:
            for retry in retries:
                if not self._bus.nc.is_closed:
                    await retry.unsubscribe()
            await app.stop()

    async def caught_up(self, within_s: float) -> bool:
        """Wait until all that waits now has been handled once; returns False where that takes longer than `within_s`.

        Raises:
            Transient, ApiError: The server does not tell.
        """
        try:
            async with asyncio.timeout(within_s):
                for reactor in self._reactors:
                    info = await self._info(reactor)
                    until = integer(mapping(info["delivered"])["consumer_seq"]) + integer(info["num_pending"])
                    while integer(mapping(info["ack_floor"])["consumer_seq"]) < until:
                        await asyncio.sleep(CATCHING_UP_LOOK_S)
                        info = await self._info(reactor)
        except TimeoutError:
            return False
        return True

    async def health(self) -> Health:
        """Say for each durable how far behind it is and whether it moves.

        A durable that was deleted, or has work that nobody took for `STALLED_S`, or a handler that is at work for
        longer than `AT_WORK_MAX_S`, is not well.
        """
        return Health(tuple([await self._part(reactor) for reactor in self._reactors]))

    def _reactor(self, stream: str, durable: str, concurrency: int, attempts_max: int) -> Reactor:
        for reactor in self._reactors:
            if reactor.durable == durable:
                reactor.concurrency = max(reactor.concurrency, concurrency)
                reactor.attempts_max = max(reactor.attempts_max, attempts_max)
                return reactor
        reactor = Reactor(stream, durable, concurrency, attempts_max)
        self._reactors.append(reactor)
        return reactor

    async def _check_durable(self, reactor: Reactor) -> None:
        """A durable that does not exist would be made anew by FastStream, with defaults that lose events."""
        name = f"consumer {reactor.durable} of {reactor.stream}"
        try:
            info = await self._info(reactor)
        except ApiError as error:
            raise Refused(f"{name} cannot be used: {error}; run `autovibe migrate`") from error
        config = mapping(info["config"])
        one, several = config.get("filter_subject"), config.get("filter_subjects")
        filters = [str(one)] if one else [str(each) for each in cast("Sequence[object]", several or ())]
        for route in reactor.routes:
            for subject in route.subjects:
                if not any(covers(heard, subject) for heard in filters):
                    raise Refused(f"{name} does not hear {subject}: {', '.join(filters)}; run `autovibe migrate`")

    async def _info(self, reactor: Reactor) -> Mapping[str, object]:
        return await self._bus.wire.api(f"CONSUMER.INFO.{reactor.stream}.{reactor.durable}")

    async def _part(self, reactor: Reactor) -> Part:
        name = f"consumer {reactor.durable}"
        try:
            info = await self._info(reactor)
        except ApiError as error:
            return Part(name, ok=False, detail=f"{error}; `autovibe migrate` makes it again")
        except Transient as error:
            return Part(name, ok=False, detail=str(error))
        lag = integer(info["num_pending"])
        waiting = integer(info["num_ack_pending"])
        self._metrics.lag(reactor.durable, lag)
        still_s = time.monotonic() - reactor.progressed_at
        stalled = lag > 0 and reactor.running == 0 and still_s > STALLED_S
        delivered = integer(mapping(info["delivered"])["stream_seq"])
        detail = f"seq {delivered}, {lag} behind, {waiting} unacknowledged, {reactor.running} at work"
        detail += f", stalled for {still_s:.0f} s" if stalled else ""
        at_work_s = reactor.at_work_s(time.monotonic())
        hangs = at_work_s > AT_WORK_MAX_S
        detail += f", one hangs since {at_work_s:.0f} s" if hangs else ""
        return Part(name, ok=not stalled and not hangs, detail=detail)

    def _consumer(self, reactor: Reactor) -> Callable[[NatsMessage], Awaitable[None]]:
        async def consume(message: NatsMessage) -> None:
            raw = message.raw_message
            stored = stored_message(raw)
            async with reactor.locks.hold(aggregate_of(stored.subject)):
                with reactor.at_work():
                    await self._deliver(reactor, raw, stored)

        return consume

    async def _deliver(self, reactor: Reactor, raw: Msg, stored: RawMessage) -> None:
        started = time.perf_counter()
        try:
            _refuse_killer(raw.metadata.num_delivered, reactor)
            async with _kept_alive(self._bus, raw):
                await reactor.handle(stored)
        except Exception as error:  # noqa: BLE001 # the edge: every error has an answer to the server
            await self._answer(reactor, raw, stored, error)
        else:
            await _quietly(raw.ack())
            reactor.failures.pop(stored.seq, None)
            self._metrics.handled(reactor.durable, "ok", time.perf_counter() - started)

    async def _answer(self, reactor: Reactor, raw: Msg, stored: RawMessage, error: Exception) -> None:
        context = {"durable": reactor.durable, "seq": stored.seq, "subject": stored.subject[:300]}
        match error:
            case Later():
                _log.info("message.postponed", **context, delay_s=error.delay_s, reason=str(error))
                self._metrics.handled(reactor.durable, "later", 0)
                await _quietly(raw.nak(delay=error.delay_s))
            case Transient() | LogFull():
                pause_s = _pause(reactor.failed(stored.seq))
                _log.warning("message.delayed", **context, delay_s=pause_s, reason=str(error))
                self._metrics.handled(reactor.durable, "transient", 0)
                await _quietly(raw.nak(delay=pause_s))
            case Never() | Poison() if reactor.of_agents:
                await self._reject(reactor, raw, stored, error)
            case Never() | Poison() | Killer():
                await self._bury(reactor, raw, stored, 1 + reactor.failures.get(stored.seq, 0), str(error))
            case _:
                failures = reactor.failed(stored.seq)
                if failures >= reactor.attempts_max:
                    await self._bury(reactor, raw, stored, failures, f"{type(error).__name__}: {error}")
                    return
                pause_s = _pause(failures)
                _log.warning("message.failed", **context, attempt=failures, delay_s=pause_s, exc_info=error)
                self._metrics.handled(reactor.durable, "failed", 0)
                await _quietly(raw.nak(delay=pause_s))

    async def _reject(self, reactor: Reactor, raw: Msg, stored: RawMessage, error: Never | Poison) -> None:
        context = {"durable": reactor.durable, "seq": stored.seq, "subject": stored.subject[:300]}
        said = rejected.shown(str(error), ERROR_CHARS_MAX)
        unreadable = isinstance(error, Poison)
        problem = Problem(code="bad_report", message=said) if unreadable else Problem(code="refused", message=said)
        try:
            await rejected.record_report(self._bus, reactor.stream, stored, problem)
        except Transient as trouble:
            _log.warning("report.kept", **context, reason=str(trouble), error=said)
            await _quietly(raw.nak(delay=BURIAL_PAUSE_S))
            return
        _log.warning("report.rejected", **context, reason=said)
        self._metrics.handled(reactor.durable, "rejected", 0)
        reactor.failures.pop(stored.seq, None)
        await _quietly(raw.term())

    async def _bury(self, reactor: Reactor, raw: Msg, stored: RawMessage, attempts: int, error: str) -> None:
        context = {"durable": reactor.durable, "seq": stored.seq, "subject": stored.subject[:300]}
        try:
            kept = await dead.bury(
                self._bus,
                service=self.service,
                durable=reactor.durable,
                stream=reactor.stream,
                message=stored,
                attempts=attempts,
                error=error,
                of_agents=reactor.of_agents,
            )
        except KitError as trouble:
            _log.error("message.unburied", **context, reason=str(trouble), error=error)
            await _quietly(raw.nak(delay=BURIAL_PAUSE_S))
            return
        _log.error("message.buried" if kept else "report.dropped", **context, attempts=attempts, error=error)
        self._metrics.handled(reactor.durable, "buried" if kept else "dropped", 0)
        reactor.failures.pop(stored.seq, None)
        await _quietly(raw.term())

    def _retry_handler(self, reactor: Reactor) -> Callable[[Msg], Awaitable[None]]:
        async def retry(request: Msg) -> None:
            try:
                letter = await dead.find(self._bus, int(orjson.loads(request.data)["seq"]))
                async with reactor.locks.hold(aggregate_of(letter.message.subject)):
                    await reactor.handle(letter.message)
            except Exception as error:  # noqa: BLE001 # the edge: the asker gets every error
                _log.warning("letter.failed_again", durable=reactor.durable, exc_info=error)
                await request.respond(orjson.dumps({"error": f"{type(error).__name__}: {error}"[:4000]}))
            else:
                await request.respond(b"{}")

        return retry


def _refuse_killer(deliveries: int, reactor: Reactor) -> None:
    if deliveries > CRASHES_MAX * reactor.attempts_max:
        raise Killer(f"delivered {deliveries} times without an answer")


def _pause(failures: int) -> float:
    return min(PAUSE_MAX_S, PAUSE_MIN_S * 2 ** min(failures - 1, 16))


@asynccontextmanager
async def _kept_alive(bus: Bus, raw: Msg) -> AsyncGenerator[None]:
    """Tell the server, while a handler works, that it does."""
    loop = asyncio.get_running_loop()

    def tell() -> None:
        nonlocal timer
        bus.nc.send_now(b"PUB %b 4\r\n+WPI\r\n" % raw.reply.encode())
        timer = loop.call_later(PROGRESS_EVERY_S, tell)

    timer = loop.call_later(PROGRESS_EVERY_S, tell)
    try:
        yield
    finally:
        timer.cancel()


async def _quietly(answer: Awaitable[None]) -> None:
    """Answer the server; when that is lost the message comes again, which handlers expect."""
    try:
        await answer
    except NatsError as error:
        _log.info("answer.lost", reason=str(error) or type(error).__name__)
