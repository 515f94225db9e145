"""What the gateway asks of the budget: `budget.<verb>` inside HUB (`events.ledger`), answered when it is durable."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER
from pydantic import ValidationError

from domain.refusal import cut, from_validation
from events import fresh
from events.base import Value
from events.ledger import (
    SUBJECTS,
    AskPrice,
    Call,
    Granted,
    Observe,
    Renew,
    Renewed,
    Reserve,
    Settle,
    Void,
)
from services.budget.calls import CallDesk
from services.budget.leases import Leases
from services.budget.mailbox import Busy, UnknownCall
from services.budget.prices import PriceBook
from services.kit.bus import Bus
from services.kit.errors import LogFull, Refused, Transient

QUEUE = "budget"
AT_ONCE_MAX = 4_096
WORDS_MAX = 400

V = TypeVar("V", bound=Value)
Handler = Callable[[Msg], Coroutine[None, None, Value | None]]
_log: structlog.stdlib.BoundLogger = structlog.get_logger("budget")


class Questions:
    """Each question is answered in a task of its own; at most `AT_ONCE_MAX` at once."""

    def __init__(self, bus: Bus, desk: CallDesk, leases: Leases, prices: PriceBook) -> None:
        self._nc = bus.nc
        self._desk = desk
        self._leases = leases
        self._prices = prices
        self._at_once = 0

    async def open(self, tasks: asyncio.TaskGroup) -> None:
        """Listen; several instances share the questions, but each hears every renewal."""
        handlers: dict[type[Value], Handler] = {
            Reserve: self._reserve,
            Observe: self._observe,
            Settle: self._settle,
            Void: self._void,
            Renew: self._renew,
            AskPrice: self._price,
        }
        for question, handler in handlers.items():
            queue = "" if question is Renew else QUEUE
            await self._nc.subscribe(SUBJECTS[question], queue=queue, cb=self._starting(handler, tasks))

    def _starting(self, handler: Handler, tasks: asyncio.TaskGroup) -> Callable[[Msg], Awaitable[None]]:
        async def start(message: Msg) -> None:
            if not message.reply:
                return  # nobody waits, so nobody would know what it was granted
            if self._at_once >= AT_ONCE_MAX:
                await _respond(message, b"", 503, f"{AT_ONCE_MAX} questions are being answered; ask again")
                return
            self._at_once += 1
            answer = self._answer(handler, message)
            try:
                tasks.create_task(answer)
            except RuntimeError:  # the service is ending, and its tasks with it
                answer.close()
                self._at_once -= 1
                await _respond(message, b"", 503, "the budget is stopping; ask again")

        return start

    async def _answer(self, handler: Handler, message: Msg) -> None:
        try:
            answer = await handler(message)
        except ValidationError as error:
            await _respond(message, b"", 400, from_validation(error, Value).message)
        except (UnknownCall, Refused) as error:
            code = 503 if isinstance(error, LogFull) else 404 if isinstance(error, UnknownCall) else 400
            await _respond(message, b"", code, str(error))
        except (Busy, Transient) as error:
            await _respond(message, b"", 503, str(error))
        else:
            await _respond(message, b"{}" if answer is None else answer.model_dump_json(exclude_none=True).encode())
        finally:
            self._at_once -= 1

    async def _reserve(self, message: Msg) -> Value | None:
        ask = _read(Reserve, message)
        answer = await self._desk.reserve(ask, _actor(message))
        if isinstance(answer, Granted):
            self._leases.granted(_call(ask), fresh.now())
            return answer.model_copy(update={"lease_s": self._leases.lease_s})
        return answer

    async def _observe(self, message: Msg) -> Value | None:
        return await self._desk.ask(_read(Observe, message), _actor(message))

    async def _settle(self, message: Msg) -> Value | None:
        ask = _read(Settle, message)
        answer = await self._desk.ask(ask, _actor(message))
        self._leases.resolved(ask.call_id)
        return answer

    async def _void(self, message: Msg) -> Value | None:
        ask = _read(Void, message)
        answer = await self._desk.ask(ask, _actor(message))
        self._leases.resolved(ask.call_id)
        return answer

    async def _renew(self, message: Msg) -> Value | None:
        return Renewed(lost=self._leases.renew(_read(Renew, message).calls))

    async def _price(self, message: Msg) -> Value | None:
        return await self._prices.lookup(_read(AskPrice, message))


def _call(ask: Call) -> Call:
    return Call(call_id=ask.call_id, project=ask.project, machine_id=ask.machine_id, epoch=ask.epoch)


def _read(model: type[V], message: Msg) -> V:
    return model.model_validate_json(message.data)


def _actor(message: Msg) -> str:
    return cut(str((message.headers or {}).get("ce-actor", "")), 150) or "gateway"


async def _respond(message: Msg, body: bytes, code: int = 0, words: str = "") -> None:
    headers = None
    if code:
        said = words.encode("ascii", "backslashreplace").decode().replace("\n", " ")
        headers = {ERROR_CODE_HEADER: str(code), ERROR_HEADER: said[:WORDS_MAX]}
    try:
        await message._client.publish(message.reply, body, headers=headers)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # respond() takes no headers
    except (NatsError, ValueError, OSError) as error:
        _log.info("answer.lost", subject=cut(message.subject, 300), reason=repr(error))
