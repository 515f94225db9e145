"""The asynchronous door: knocks published to `in.>`, taken from the stream IN, answered by the log or by `Rejected`."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from domain.door import Request, is_missing, read, rejected_subject
from domain.refusal import cut
from events import fresh
from events.records import EXCERPT_CHARS_MAX, Problem, Rejected
from services.intake.admit import Admission
from services.intake.knock import Sender, cause, client_id, log_id, project_sender
from services.intake.rate import Rate
from services.kit import rejected
from services.kit.bus import Bus
from services.kit.delivery import Later
from services.kit.errors import LogFull
from services.kit.message import RawMessage

PREFIX = "in"

_Earlier: TypeAlias = Callable[[], Awaitable[bool]]


class Published:
    """Handles one message of IN; when it returns, the outcome is durable and the message may be forgotten."""

    def __init__(self, bus: Bus, admission: Admission, rate: Rate, *, full_delay_s: float) -> None:
        self._bus = bus
        self._admission = admission
        self._rate = rate
        self._full_delay_s = full_delay_s
        self._order = _Order()

    async def handle(self, message: RawMessage) -> None:
        """Raises:
        Later: The log is full; nothing was refused.
        Transient: Nothing is lost, deliver it again.
        """
        sender = project_sender(message.subject)
        named = client_id(message.headers, f"IN:{message.seq}@{message.recorded_ns}")
        async with self._order.place(_project(message.subject), message.seq) as earlier:
            problem = await self._problem(message, sender, named, earlier)
        if problem is not None:
            await self._reject(message, problem, sender, named if isinstance(named, str) else "")

    async def _problem(
        self, message: RawMessage, sender: Sender, named: str | Problem, earlier: _Earlier
    ) -> Problem | None:
        if isinstance(named, Problem):
            return named
        request = read(message.subject, message.data, prefix=PREFIX)
        if isinstance(request, Problem):
            return request
        if (hasty := self._rate.take(request.address.project)) is not None:
            return hasty
        problem = await self._admit(request, sender, named)
        if problem is not None and is_missing(problem) and await earlier():
            # What it refers to may have been said just before and was still on its way into the log.
            problem = await self._admit(request, sender, named)
        return problem

    async def _admit(self, request: Request, sender: Sender, named: str) -> Problem | None:
        try:
            outcome = await self._admission.admit(request, log_id(sender, request, named), cause(sender))
        except LogFull as error:
            raise Later(self._full_delay_s, str(error)) from error
        return outcome if isinstance(outcome, Problem) else None

    async def _reject(self, message: RawMessage, problem: Problem, sender: Sender, named: str) -> None:
        record = Rejected(
            problem=problem,
            sender=sender.actor,
            subject=cut(message.subject, 1_024),
            client_id=cut(named, 400),
            excerpt=cut(message.data[: 2 * EXCERPT_CHARS_MAX].decode("utf-8", "backslashreplace"), EXCERPT_CHARS_MAX),
            size_bytes=len(message.data),
            rejected_at=fresh.now(),
        )
        msg_id = f"IN:{message.seq}@{message.recorded_ns}"
        await rejected.record(self._bus, rejected_subject(message.subject), record, msg_id)


class _Order:
    """Which messages of a project are being handled, so that one can wait for those that came before it."""

    def __init__(self) -> None:
        self._at_work: defaultdict[str, dict[int, asyncio.Event]] = defaultdict(dict)

    @asynccontextmanager
    async def place(self, project: str, seq: int) -> AsyncGenerator[_Earlier]:
        """Take a place by seq; the function given waits for all earlier ones and says whether there were any."""
        at_work = self._at_work[project]
        before = [done for other, done in at_work.items() if other < seq]
        done = at_work[seq] = asyncio.Event()

        async def wait() -> bool:
            for other in before:
                await other.wait()
            return bool(before)

        try:
            yield wait
        finally:
            done.set()
            del at_work[seq]
            if not at_work:
                self._at_work.pop(project, None)


def _project(subject: str) -> str:
    return subject.split(".", 2)[1] if "." in subject else ""
