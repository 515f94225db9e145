"""What the gateway asks of the budget: `budget.<verb>` inside HUB (`events.ledger`), answered when it is durable."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TypeVar

import structlog
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
from services.kit.client import RawHandler
from services.kit.errors import LogFull, Refused, Transient
from services.kit.wire import parse_headers

QUEUE = "budget"
AT_ONCE_MAX = 4_096
WORDS_MAX = 400

V = TypeVar("V", bound=Value)
Handler = Callable[["Question"], Coroutine[None, None, Value | None]]
_log: structlog.stdlib.BoundLogger = structlog.get_logger("budget")


@dataclass(frozen=True, slots=True)
class Question:
    """One that somebody waits for the answer of."""

    reply: bytes
    header: bytes
    body: bytes

    @property
    def actor(self) -> str:
        return cut(parse_headers(self.header).get("ce-actor", ""), 150) or "gateway"


class Questions:
    """Each question is answered in a task of its own; at most `AT_ONCE_MAX` at once."""

    def __init__(self, bus: Bus, desk: CallDesk, leases: Leases, prices: PriceBook) -> None:
        self._nc = bus.nc
        self._desk = desk
        self._leases = leases
        self._prices = prices
        self._at_once = 0
        self._is_closed = False

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
            await self._nc.subscribe_raw(SUBJECTS[question], self._starting(handler, tasks), queue)

    def close(self) -> None:
        """Refuse what is asked from now on; another instance, or the next one, is asked then."""
        self._is_closed = True

    def _starting(self, handler: Handler, tasks: asyncio.TaskGroup) -> RawHandler:
        def start(_subject: bytes, reply: bytes, header: bytes, body: bytes) -> None:
            if not reply:
                return  # nobody waits, so nobody would know what it was granted
            question = Question(reply, header, body)
            if self._is_closed:
                self._refuse(question, 503, "the budget is stopping; ask again")
            elif self._at_once >= AT_ONCE_MAX:
                self._refuse(question, 503, f"{AT_ONCE_MAX} questions are being answered; ask again")
            else:
                self._at_once += 1
                answer = self._answer(handler, question)
                try:
                    tasks.create_task(answer)
                except RuntimeError:  # the service is failing, and its tasks with it
                    answer.close()
                    self._at_once -= 1
                    self._refuse(question, 503, "the budget is stopping; ask again")

        return start

    async def _answer(self, handler: Handler, question: Question) -> None:
        try:
            answer = await handler(question)
        except ValidationError as error:
            self._refuse(question, 400, from_validation(error, Value).message)
        except (UnknownCall, Refused) as error:
            code = 503 if isinstance(error, LogFull) else 404 if isinstance(error, UnknownCall) else 400
            self._refuse(question, code, str(error))
        except (Busy, Transient) as error:
            self._refuse(question, 503, str(error))
        except Exception as error:  # noqa: BLE001 # the edge: whoever asks gets an answer, and the next one is served
            _log.exception("question.failed")
            self._refuse(question, 503, f"the budget failed: {type(error).__name__}")
        else:
            body = b"{}" if answer is None else answer.model_dump_json(exclude_none=True).encode()
            self._send(b"PUB %b %d\r\n%b\r\n" % (question.reply, len(body), body))
        finally:
            self._at_once -= 1

    def _refuse(self, question: Question, code: int, words: str) -> None:
        said = words.encode("ascii", "backslashreplace").decode().replace("\n", " ").replace("\r", " ")[:WORDS_MAX]
        header = f"NATS/1.0\r\n{ERROR_CODE_HEADER}: {code}\r\n{ERROR_HEADER}: {said}\r\n\r\n".encode()
        self._send(b"HPUB %b %d %d\r\n%b\r\n" % (question.reply, len(header), len(header), header))

    def _send(self, command: bytes) -> None:
        if not self._nc.send_now(command):
            _log.info("answer.lost", reason="not connected to NATS; who asked will ask again")

    async def _reserve(self, question: Question) -> Value | None:
        ask = _read(Reserve, question)
        answer = await self._desk.reserve(ask, question.actor)
        if isinstance(answer, Granted):
            self._leases.granted(_call(ask), fresh.now())
            return answer.model_copy(update={"lease_s": self._leases.lease_s})
        return answer

    async def _observe(self, question: Question) -> Value | None:
        return await self._desk.ask(_read(Observe, question), question.actor)

    async def _settle(self, question: Question) -> Value | None:
        ask = _read(Settle, question)
        answer = await self._desk.ask(ask, question.actor)
        self._leases.resolved(ask.call_id)
        return answer

    async def _void(self, question: Question) -> Value | None:
        ask = _read(Void, question)
        answer = await self._desk.ask(ask, question.actor)
        self._leases.resolved(ask.call_id)
        return answer

    async def _renew(self, question: Question) -> Value | None:
        return Renewed(lost=self._leases.renew(_read(Renew, question).calls))

    async def _price(self, question: Question) -> Value | None:
        return await self._prices.lookup(_read(AskPrice, question))


def _call(ask: Call) -> Call:
    return Call(call_id=ask.call_id, project=ask.project, machine_id=ask.machine_id, epoch=ask.epoch)


def _read(model: type[V], question: Question) -> V:
    return model.model_validate_json(question.body)
