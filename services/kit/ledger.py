"""How the gateway has model calls paid for: the port to the budget service, and its client over the bus."""

import asyncio
from typing import Protocol

from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER
from pydantic import TypeAdapter

from events.base import Value
from events.ledger import (
    POLL_S,
    SUBJECTS,
    WAIT_S_MAX,
    AskPrice,
    Granted,
    NotGranted,
    Observe,
    Priced,
    Renew,
    Renewed,
    Reserve,
    Settle,
    Settled,
    Void,
    Waiting,
)
from services.kit.errors import Transient
from services.kit.wire import Wire, parse_headers

ANSWER_S = 10.0
"""How long an answer may take beyond `POLL_S`, or what a reservation may wait if that is less."""
PAUSE_S = 0.5
"""Before a reservation that waits is asked for again where nobody answered."""

_RESERVED: TypeAdapter[Granted | NotGranted | Waiting] = TypeAdapter(Granted | NotGranted | Waiting)


class LedgerError(Exception):
    """The base of what can go wrong when a call is accounted for."""


class LedgerRefused(LedgerError):
    """The budget will never do this (the call is unknown, the machine is not); asking again changes nothing."""


class LedgerUnreachable(LedgerError):
    """Nobody answered, or the log does not take it now; every verb is idempotent, ask again."""


class CallLedger(Protocol):
    """Where model calls are set aside for and settled; every verb is idempotent by `call_id`.

    Raises:
        LedgerRefused: It can never be done.
        LedgerUnreachable: The outcome is unknown; ask again.
    """

    async def reserve(self, ask: Reserve) -> Granted | NotGranted: ...

    async def observe(self, ask: Observe) -> None: ...

    async def settle(self, ask: Settle) -> Settled: ...

    async def void(self, ask: Void) -> None: ...

    async def renew(self, ask: Renew) -> Renewed: ...

    async def price(self, ask: AskPrice) -> Priced: ...


class LedgerClient:
    """The budget service, over the bus; only inside HUB."""

    def __init__(self, wire: Wire, *, actor: str = "gateway", timeout_s: float = ANSWER_S) -> None:
        """`actor`: who history shows as having asked."""
        self._wire = wire
        self._header = f"NATS/1.0\r\nce-actor: {actor}\r\n\r\n".encode()
        self._timeout_s = timeout_s

    async def reserve(self, ask: Reserve) -> Granted | NotGranted:
        """Ask, again and again while it waits: once it has been told that it waits, the death of a budget ends nothing."""
        clock = asyncio.get_running_loop().time
        began, waits = clock(), False
        while True:
            waited_s = ask.waited_s + clock() - began
            left_s = max(0.0, ask.waited_s + ask.wait_s - waited_s)
            so_far = {"wait_s": left_s, "waited_s": min(waited_s, WAIT_S_MAX)}
            now = ask.model_copy(update=so_far) if waits else ask
            try:
                answer = _RESERVED.validate_json(await self._ask(now, min(POLL_S, left_s)))
            except LedgerUnreachable:
                if not (waits and left_s):
                    raise
                await asyncio.sleep(min(PAUSE_S, left_s))  # the budget starts again; the call goes on waiting
                continue
            if not isinstance(answer, Waiting):
                return answer
            if clock() - began > ask.wait_s + self._timeout_s:
                raise LedgerUnreachable(f"{SUBJECTS[Reserve]}: no decision {self._timeout_s} s after the wait was over")
            waits = True

    async def observe(self, ask: Observe) -> None:
        await self._ask(ask)

    async def settle(self, ask: Settle) -> Settled:
        return Settled.model_validate_json(await self._ask(ask))

    async def void(self, ask: Void) -> None:
        await self._ask(ask)

    async def renew(self, ask: Renew) -> Renewed:
        return Renewed.model_validate_json(await self._ask(ask))

    async def price(self, ask: AskPrice) -> Priced:
        return Priced.model_validate_json(await self._ask(ask))

    async def _ask(self, ask: Value, wait_s: float = 0.0) -> bytes:
        subject = SUBJECTS[type(ask)]
        timeout_s = self._timeout_s + wait_s
        body = ask.model_dump_json(exclude_none=True).encode()
        try:
            reply = await self._wire.publish(subject, self._header, body, timeout_s)
        except Transient as error:
            raise LedgerUnreachable(str(error)) from error
        headers = parse_headers(reply.header) if reply.header else {}
        if (code := headers.get(ERROR_CODE_HEADER)) is not None:
            said = f"{subject}: {code} {headers.get(ERROR_HEADER, '')}"
            raise (LedgerRefused if code.startswith("4") else LedgerUnreachable)(said)
        return reply.data
