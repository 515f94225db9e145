"""The door as request and reply: the micro service `autovibe-intake` on `ask.<project>.<aggregate>.<id>.<Type>`."""

import asyncio
import json
from collections.abc import Mapping

import structlog
from nats.errors import Error as NatsError
from nats.micro.request import Request as Question

from domain.door import read
from events import fresh
from events.records import Problem
from services.intake.admit import Admission, Admitted
from services.intake.knock import asking_sender, cause, client_id, log_id
from services.intake.rate import Rate
from services.kit.errors import LogFull, Transient

PREFIX = "ask"
SERVICE = "autovibe-intake"
AGGREGATES = ("project", "machine", "checkpoint", "budget")
STATUS = {
    "bad_subject": "400",
    "bad_body": "400",
    "bad_header": "400",
    "unknown_type": "400",
    "not_runnable": "400",
    "no_model": "400",
    "no_model_used": "400",
    "model_not_allowed": "403",
    "not_allowed": "403",
    "no_such_project": "404",
    "no_such_machine": "404",
    "no_such_checkpoint": "404",
    "too_large": "413",
    "rate": "429",
    "unavailable": "503",
    "internal": "500",
}
"""The code that the answer's header carries, as in HTTP; what is not here is a conflict, 409."""
DESCRIPTION_CHARS_MAX = 200

_log: structlog.stdlib.BoundLogger = structlog.get_logger("intake")


class Asked:
    """Answers each question in a task of its own, so that they share a commit; bounded."""

    def __init__(self, admission: Admission, rate: Rate, tasks: asyncio.TaskGroup, *, at_once_max: int) -> None:
        self._admission = admission
        self._rate = rate
        self._tasks = tasks
        self._at_once_max = at_once_max
        self._at_once = 0

    async def handle(self, question: Question) -> None:
        if not question._msg.reply:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # no public name
            return  # nobody waits for an answer, so nobody would hear a refusal
        if self._at_once >= self._at_once_max:
            limit = f"{self._at_once_max} at once"
            busy = Problem(code="unavailable", message="the door is busy", limit=limit, remedy="ask again in a second")
            await _refuse(question, busy)
            return
        self._at_once += 1
        self._tasks.create_task(self._serve(question))

    async def _serve(self, question: Question) -> None:
        try:
            outcome = await self._outcome(question)
        except Exception:  # noqa: BLE001 # the edge: whoever asks gets an answer, and the door stays open
            _log.exception("question.failed", subject=question.subject[:300])
            outcome = Problem(code="internal", message="the door failed", remedy="ask again with the same id")
        finally:
            self._at_once -= 1
        try:
            if isinstance(outcome, Problem):
                await _refuse(question, outcome)
            else:
                said = {"seq": outcome.seq, "id": str(outcome.id), "duplicate": outcome.duplicate}
                await question.respond(json.dumps(said).encode())
        except NatsError as error:
            _log.info("answer.lost", subject=question.subject[:300], reason=repr(error))

    async def _outcome(self, question: Question) -> Admitted | Problem:
        headers: Mapping[str, str] = question.headers or {}
        named = client_id(headers, str(fresh.uuid7()))
        if isinstance(named, Problem):
            return named
        request = read(question.subject, question.data, prefix=PREFIX)
        if isinstance(request, Problem):
            return request
        if (hasty := self._rate.take(request.address.project)) is not None:
            return hasty
        sender = asking_sender(headers)
        try:
            return await self._admission.admit(request, log_id(sender, request, named), cause(sender))
        except LogFull as error:
            return Problem(code="unavailable", message=f"the log is full: {error}", remedy="free space, then ask again")
        except Transient as error:
            return Problem(code="unavailable", message=str(error)[:1_000], remedy="ask again with the same id")


async def _refuse(question: Question, problem: Problem) -> None:
    said = f"{problem.code}: {problem.message}".encode("ascii", "backslashreplace").decode()[:DESCRIPTION_CHARS_MAX]
    body = problem.model_dump_json(exclude_none=True).encode()
    await question.respond_error(STATUS.get(problem.code, "409"), said, body)
