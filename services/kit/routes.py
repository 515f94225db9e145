"""Which handler takes which message of a durable, and how the message is read for it."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Generic, TypeVar

from nats.aio.msg import Msg
from structlog.contextvars import bound_contextvars

from events.envelope import Recorded
from services.kit.delivery import Poison, Report
from services.kit.locks import KeyedLocks
from services.kit.message import RawMessage, from_delivery

FAILURES_KEPT = 10_000

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Route(Generic[M]):
    """Which messages of a durable a handler takes, and how they are read for it."""

    subjects: tuple[str, ...]
    handler: Callable[[M], Awaitable[None]]
    read: Callable[[RawMessage], M]
    bind: Callable[[M], dict[str, str]]

    async def handle(self, stored: RawMessage) -> None:
        try:
            message = self.read(stored)
        except ValueError as error:
            raise Poison(f"cannot be read: {error}") from error
        with bound_contextvars(**self.bind(message)):
            await self.handler(message)

    def takes(self, subject: str) -> bool:
        return any(covers(wanted, subject) for wanted in self.subjects)


@dataclass(slots=True)
class Reactor:
    """One durable and its handlers."""

    stream: str
    durable: str
    concurrency: int
    attempts_max: int
    of_agents: bool = False
    """What comes is untrusted: who sent it can make it unreadable or late at will, and must not fill DEAD with it."""
    routes: list[Route[Any]] = field(default_factory=list[Route[Any]])
    locks: KeyedLocks[str] = field(default_factory=KeyedLocks[str])
    failures: OrderedDict[int, int] = field(default_factory=OrderedDict[int, int])
    progressed_at: float = field(default_factory=time.monotonic)
    _began: dict[int, float] = field(default_factory=dict[int, float])
    _turns: "count[int]" = field(default_factory=count)

    @property
    def running(self) -> int:
        """How many handlers are at work."""
        return len(self._began)

    def at_work_s(self, now: float) -> float:
        """Return for how long the oldest handler has been at work; 0: none is."""
        return now - min(self._began.values(), default=now)

    @contextmanager
    def at_work(self) -> Generator[None]:
        turn = next(self._turns)
        self._began[turn] = time.monotonic()
        try:
            yield
        finally:
            del self._began[turn]
            self.progressed_at = time.monotonic()

    async def handle(self, stored: RawMessage) -> None:
        """Give a message to the first handler that takes it; what nobody takes is done."""
        for route in self.routes:
            if route.takes(stored.subject):
                await route.handle(stored)
                return

    def failed(self, seq: int) -> int:
        """Count a failure of a message in this process."""
        count = self.failures.pop(seq, 0) + 1
        self.failures[seq] = count
        if len(self.failures) > FAILURES_KEPT:
            self.failures.popitem(last=False)
        return count


def as_it_is(message: RawMessage) -> RawMessage:
    return message


def stored_message(raw: Msg) -> RawMessage:
    header = b"NATS/1.0\r\n" + b"".join(f"{k}: {v}\r\n".encode() for k, v in (raw.headers or {}).items())
    return from_delivery(raw.subject.encode(), raw.reply.encode(), header, raw.data)


def aggregate_of(subject: str) -> str:
    """Return what must be handled in order: the first four tokens name an aggregate, or a machine's epoch."""
    return ".".join(subject.split(".", 4)[:4])


def about_event(recorded: Recorded) -> dict[str, str]:
    address = recorded.envelope.address
    return {
        "project": address.project,
        f"{address.aggregate}_id": address.id,
        "cause": recorded.envelope.type,
        "seq": str(recorded.seq),
    }


def about_report(report: Report) -> dict[str, str]:
    return {
        "project": report.project,
        "machine_id": str(report.machine_id),
        "epoch": str(report.epoch),
        "cause": report.type,
    }


def about_raw(message: RawMessage) -> dict[str, str]:
    return {"subject": message.subject[:300], "seq": str(message.seq)}


def covers(wide: str, narrow: str) -> bool:
    """Return whether every subject that `narrow` (a subject or a filter) names is also named by the filter `wide`."""
    outer, inner = wide.split("."), narrow.split(".")
    for at, part in enumerate(outer):
        if part == ">":
            return len(inner) > at
        if at >= len(inner) or inner[at] == ">" or part not in {"*", inner[at]}:
            return False
    return len(inner) == len(outer)
