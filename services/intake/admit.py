"""Letting a request into the log: gather the facts, judge, append; once per id, whatever is delivered how often."""

import asyncio
from dataclasses import dataclass
from uuid import UUID

from domain import project
from domain.completion import DefaultModels, is_completed
from domain.door import (
    Facts,
    Request,
    Thing,
    checkpoint_named,
    completed,
    evolve_checkpoint,
    evolve_machine,
    judge,
    machine_named,
)
from domain.project import Project
from events import address
from events.address import Address
from events.envelope import Cause, Recorded
from events.records import Problem
from events.words import MachineType
from services.intake.said import Said
from services.kit.errors import Conflict, IdReused, LogFull, Refused, Transient
from services.kit.locks import KeyedLocks
from services.kit.log import Log, Write
from services.kit.repository import Repository

CONFLICTS_MAX = 20


@dataclass(frozen=True, slots=True)
class Admitted:
    """Where what was asked stands in the log."""

    seq: int
    id: UUID
    duplicate: bool
    """It was there before."""


class Admission:
    """The facts of the door, read from the log alone; requests to one aggregate are taken one after the other."""

    def __init__(
        self, log: Log, machine_types: frozenset[MachineType], models: DefaultModels, *, deadline_s: float
    ) -> None:
        self._log = log
        self._machine_types = machine_types
        self._models = models
        self._deadline_s = deadline_s
        self._projects = Repository(log, Project, project.evolve)
        self._machines = Repository(log, Thing, evolve_machine)
        self._checkpoints = Repository(log, Thing, evolve_checkpoint)
        self._said = Said(log.reader)
        self._turns = KeyedLocks[Address]()

    async def admit(self, request: Request, event_id: UUID, cause: Cause) -> Admitted | Problem:
        """Append the request, or say why not.

        Raises:
            Transient: The outcome is unknown; ask again with the same id.
            LogFull: Nothing can be appended now.
        """
        async with self._turns.hold(request.address):
            for _ in range(CONFLICTS_MAX):
                try:
                    return await self._once(request, event_id, cause)
                except Conflict:
                    continue
        raise Transient(f"{request.address} moved on {CONFLICTS_MAX} times while it was asked for")

    async def _once(self, request: Request, event_id: UUID, cause: Cause) -> Admitted | Problem:
        # The seq first: what is judged may be newer than what the append expects, which is a conflict, never older.
        last = await self._log.reader.last(request.address.filter())
        facts = await self._facts(request)
        seq = last.seq if last else 0
        if last and (prior := await self._prior(request, event_id)):
            if not is_completed(request.event, prior.event):
                return id_reused(event_id, prior.seq)
            return Admitted(prior.seq, event_id, duplicate=True)
        whole = self._whole(request, facts(is_new=not last))
        if isinstance(whole, Problem):
            return whole
        write = Write(request.address, seq, (whole.event,), (event_id,))
        try:
            appended = await self._log.append(write, cause=cause, deadline_s=self._deadline_s)
        except IdReused as error:
            return id_reused(event_id, error.seq)
        except LogFull:
            raise
        except Refused as error:
            return Problem(code="refused", message=str(error)[:1_000])
        return Admitted(appended.seq, event_id, duplicate=False)

    def _whole(self, request: Request, facts: Facts) -> Request | Problem:
        """Return the request as it goes into the log, or why it does not."""
        whole = completed(request, facts.project, self._models)
        judged = whole if isinstance(whole, Request) else request
        return judge(judged, facts, self._machine_types) or whole

    async def _prior(self, request: Request, event_id: UUID) -> Recorded | None:
        """Find the id among what was said so before."""
        subject = request.address.subject(request.event.type())
        seq = await self._said.seq_of(subject, str(event_id))
        return await self._log.event(seq) if seq is not None else None

    async def _facts(self, request: Request) -> "_Gathered":
        slug = request.address.project
        machine_id, checkpoint_id = machine_named(request), checkpoint_named(request)
        found = await asyncio.gather(
            self._projects.get(address.project(slug)),
            _thing(self._machines, address.machine(slug, machine_id) if machine_id else None),
            _thing(self._checkpoints, address.checkpoint(slug, checkpoint_id) if checkpoint_id else None),
        )
        return _Gathered(found[0].state, found[1], found[2])


@dataclass(frozen=True, slots=True)
class _Gathered:
    project: Project
    machine: Thing
    checkpoint: Thing

    def __call__(self, *, is_new: bool) -> Facts:
        return Facts(self.project, self.machine, self.checkpoint, is_new)


async def _thing(kept: Repository[Thing], of: Address | None) -> Thing:
    return (await kept.get(of)).state if of else Thing()


def id_reused(event_id: UUID, seq: int) -> Problem:
    return Problem(
        code="id_reused",
        message=f"this id already names another event (seq {seq}); the log's id of it is {event_id}",
        field="id",
        remedy="use a new id for every new request, and the same one only to repeat it",
    )
