"""The issuer's endpoints: reading what is asked, whether the asker may, and saying what came of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar, cast
from urllib.parse import unquote
from uuid import UUID

import structlog
from nats.errors import Error as NatsError
from nats.micro.request import Request as Question
from pydantic import ValidationError

from domain.credential import machine_credential_id
from domain.refusal import cut, from_validation
from events import address
from events.address import Address
from events.envelope import Cause
from events.records import Problem
from services.issuer.desk import Desk
from services.issuer.push import PushFailed
from services.issuer.wire import Ask, CredentialRequested, CredentialRevokeRequested, Issued, MachineAsk, RevokeAsk
from services.kit.errors import LogFull, Transient

REQUEST_INFO = "Nats-Request-Info"
"""Written by the server when a request comes from another account, whatever the sender put there."""
AT_ONCE_MAX = 256
STATUS = {
    "bad_body": "400",
    "bad_subject": "400",
    "not_allowed": "403",
    "no_such_project": "404",
    "no_such_credential": "404",
    "conflict": "409",
    "internal": "500",
}
"""As in HTTP; the rest is trouble of ours, 503."""
DESCRIPTION_CHARS_MAX = 200

A = TypeVar("A", bound=Ask)
Answer = Issued | Problem | None
_log: structlog.stdlib.BoundLogger = structlog.get_logger("issuer")


class Questions:
    """Each question is answered in a task of its own; at most `AT_ONCE_MAX` at once."""

    def __init__(self, desk: Desk, operators: str, tasks: asyncio.TaskGroup) -> None:
        self._desk = desk
        self._operators = operators
        self._tasks = tasks
        self._room = asyncio.Semaphore(AT_ONCE_MAX)

    async def machine(self, question: Question) -> None:
        async def answer(actor: str) -> Answer:
            ask = _read(MachineAsk, question.data)
            return ask if isinstance(ask, Problem) else await self._desk.machine(ask, Cause(actor))

        await self._start(question, answer)

    async def revoke(self, question: Question) -> None:
        async def answer(actor: str) -> Answer:
            ask = _read(RevokeAsk, question.data)
            of = await self._revoked(ask) if isinstance(ask, RevokeAsk) else ask
            if isinstance(of, Problem) or isinstance(ask, Problem):
                return of if isinstance(of, Problem) else None
            problem = await self._desk.revoke(of, ask.reason, Cause(actor))
            # An incarnation that never got credentials has none to lose.
            return None if problem and ask.credential_id is None and problem.code == "no_such_credential" else problem

        await self._start(question, answer)

    async def credential_requested(self, question: Question) -> None:
        async def answer(actor: str) -> Answer:
            ask, credential_id = _read(CredentialRequested, question.data), _credential_id(question.subject)
            if isinstance(ask, Problem):
                return ask
            if isinstance(credential_id, Problem):
                return credential_id
            return await self._desk.credential(credential_id, ask, Cause(actor))

        await self._start(question, answer)

    async def credential_revoke_requested(self, question: Question) -> None:
        async def answer(actor: str) -> Answer:
            ask, credential_id = _read(CredentialRevokeRequested, question.data), _credential_id(question.subject)
            if isinstance(ask, Problem):
                return ask
            if isinstance(credential_id, Problem):
                return credential_id
            return await self._desk.revoke(await self._desk.address_of(credential_id), ask.reason, Cause(actor))

        await self._start(question, answer)

    async def _start(self, question: Question, answer: Callable[[str], Awaitable[Answer]]) -> None:
        await self._room.acquire()
        self._tasks.create_task(self._serve(question, answer))

    async def _serve(self, question: Question, answer: Callable[[str], Awaitable[Answer]]) -> None:
        try:
            outcome = await self._outcome(question, answer)
        finally:
            self._room.release()
        try:
            match outcome:
                case Issued():
                    await question.respond(outcome.model_dump_json(exclude_none=True).encode())
                case Problem():
                    said = f"{outcome.code}: {outcome.message}".encode("ascii", "backslashreplace").decode()
                    body = outcome.model_dump_json(exclude_none=True).encode()
                    await question.respond_error(
                        STATUS.get(outcome.code, "503"), said[:DESCRIPTION_CHARS_MAX].replace("\n", " "), body
                    )
                case None:
                    await question.respond(b"{}")
        except (NatsError, ValueError) as error:
            _log.info("answer.lost", subject=cut(question.subject, 300), reason=repr(error))

    async def _outcome(self, question: Question, answer: Callable[[str], Awaitable[Answer]]) -> Answer:
        try:
            actor = self._actor(question.headers or {})
            return actor if isinstance(actor, Problem) else await answer(actor)
        except (PushFailed, Transient, LogFull) as error:
            return Problem(code="unavailable", message=cut(str(error), 1_000), remedy="ask again")
        except Exception:  # noqa: BLE001 # the edge: whoever asks gets an answer
            _log.exception("question.failed", subject=cut(question.subject, 300))
            return Problem(code="internal", message="the issuer failed", remedy="look into its log")

    def _actor(self, headers: Mapping[str, str]) -> str | Problem:
        """Return who asks, if it is one of our services or an operator."""
        text = headers.get(REQUEST_INFO)
        if text is None:
            return cut(unquote(str(headers.get("ce-actor", ""))), 150) or "hub"
        info = cast("Mapping[str, object]", json.loads(text))
        if info.get("acc") != self._operators:
            return Problem(code="not_allowed", message="only those who operate the hub may ask this")
        return f"operator:{cut(str(info.get('name_tag', '')), 150)}"

    async def _revoked(self, ask: RevokeAsk) -> Address | Problem:
        match ask:
            case RevokeAsk(credential_id=UUID() as credential_id):
                return await self._desk.address_of(credential_id)
            case RevokeAsk(project=str(slug), machine_id=UUID() as machine_id, epoch=int(epoch)):
                return address.credential(slug, machine_credential_id(slug, machine_id, epoch))
            case _:
                return Problem(code="bad_body", message="name credential_id, or project, machine_id and epoch")


def _read(model: type[A], body: bytes) -> A | Problem:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        return from_validation(error, model)


def _credential_id(subject: str) -> UUID | Problem:
    text = subject.split(".")[3]
    try:
        return UUID(text)
    except ValueError:
        return Problem(code="bad_subject", message="the credential's id is no UUID", value=cut(text, 400))
