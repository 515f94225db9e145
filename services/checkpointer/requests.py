"""What is asked for and not there yet: the genesis of each project, and captures of running machines."""

import asyncio
import time
from dataclasses import dataclass
from uuid import UUID

import nats.errors
import structlog

from domain.checkpoint import Fail, TakeGenesis, decide, genesis_id
from domain.overview import Project
from events import address as at
from events.agent import Capture
from events.envelope import Cause
from events.words import CheckpointType, CreationContext, Phase
from services.checkpointer.chunks import Chunks, Held
from services.checkpointer.desk import ACTOR, Desk, Moved
from services.checkpointer.settings import CheckpointerSettings
from services.kit.bus import Bus
from services.kit.errors import KitError
from snapshots.errors import SnapshotError

CAPTURES_AT_ONCE = 64
GRACE_S = 10.0
"""How long after a capture's deadline its report may still come."""
_CAPTURABLE = frozenset({Phase.READY, Phase.WORKING})
_log: structlog.stdlib.BoundLogger = structlog.get_logger("checkpointer")


@dataclass(slots=True)
class Asked:
    """A capture that an agent was asked for."""

    until: float
    """Monotonic; later than this it has failed."""
    again_at: float = 0.0
    answered: bool = False


class Requests:
    """Level-triggered: looks at what is not settled until it is."""

    def __init__(self, bus: Bus, desk: Desk, chunks: Chunks, settings: CheckpointerSettings) -> None:
        self._nc = bus.nc
        self._desk = desk
        self._chunks = chunks
        self._settings = settings
        self.moved = Moved()
        self._asked: dict[UUID, Asked] = {}
        self._slots = asyncio.Semaphore(CAPTURES_AT_ONCE)
        self._busy: set[UUID] = set()

    async def run(self) -> None:
        """Look for ever, at once when something was heard and in between for deadlines."""
        async with asyncio.TaskGroup() as group:
            while True:
                unsettled: set[UUID] = set()
                for project in list(self._desk.overview.projects.values()):
                    unsettled |= project.unsettled
                    self._look_at(project, group)
                for checkpoint_id in self._asked.keys() - unsettled - self._busy:
                    del self._asked[checkpoint_id]
                await self.moved.wait(self._settings.checkpointer_look_s)

    def _look_at(self, project: Project, group: asyncio.TaskGroup) -> None:
        genesis = genesis_id(project.slug)
        if project.created is not None and not self._desk.overview.checkpoint(project.slug, genesis).is_settled:
            self._begin(group, project, genesis)
        for checkpoint_id in list(project.unsettled):
            self._begin(group, project, checkpoint_id)

    def _begin(self, group: asyncio.TaskGroup, project: Project, checkpoint_id: UUID) -> None:
        if checkpoint_id in self._busy:
            return
        self._busy.add(checkpoint_id)
        group.create_task(self._settle(project, checkpoint_id))

    async def _settle(self, project: Project, checkpoint_id: UUID) -> None:
        try:
            async with self._slots:
                if checkpoint_id == genesis_id(project.slug):
                    await self._genesis(project, checkpoint_id)
                else:
                    await self._capture(project, checkpoint_id)
        except (KitError, SnapshotError, OSError) as error:
            _log.warning("checkpoint.delayed", checkpoint_id=str(checkpoint_id), reason=str(error))
            await asyncio.sleep(self._settings.checkpointer_retry_s)
        finally:
            self._busy.discard(checkpoint_id)

    async def _genesis(self, project: Project, checkpoint_id: UUID) -> None:
        """Say what the project begins with, and put its trunk there.

        A genesis that was named but is not in the store has failed: to begin with nothing instead would run the first
        goal on an empty workspace, which looks like a loss of everything.
        """
        assert project.created is not None, "looked at because it was created"
        snapshot = project.created.genesis or await self._chunks.empty()
        held = await self._chunks.held(snapshot)

        def cause() -> Cause:
            return project.cause(ACTOR)

        command = Fail(None, held.problem) if held.problem else _genesis(snapshot, held)
        await self._desk.say(project.slug, checkpoint_id, lambda known: decide(command, known), cause, advance=True)

    async def _capture(self, project: Project, checkpoint_id: UUID) -> None:
        """Have the agent capture, until it is reported or its time is up."""
        requested = self._desk.overview.checkpoint(project.slug, checkpoint_id).requested
        if requested is None:
            return
        clock = time.monotonic()
        limit_s = self._settings.capture_deadline_s
        asked = self._asked.setdefault(checkpoint_id, Asked(clock + limit_s + GRACE_S))
        address = at.machine(project.slug, requested.machine_id)
        known = self._desk.overview.machines.get(address) or await self._desk.machine(address)
        problem = ""
        if known is None:
            problem = f"machine {requested.machine_id} has ended, or is none of project {project.slug}"
        elif known.machine.phase not in _CAPTURABLE:
            problem = f"machine {requested.machine_id} is {known.machine.phase}: there is nothing to capture"
        elif clock > asked.until:
            problem = f"not captured within {limit_s:g} s"
        elif not asked.answered and clock >= asked.again_at:
            asked.again_at = clock + self._settings.checkpointer_retry_s
            asked.answered = await self._tell(project.slug, requested.machine_id, known.machine.epoch, checkpoint_id)
        if problem:
            failed = Fail(requested.machine_id, problem)
            await self._desk.say(
                project.slug, checkpoint_id, lambda checkpoint: decide(failed, checkpoint), lambda: project.cause(ACTOR)
            )

    async def _tell(self, slug: str, machine_id: UUID, epoch: int, checkpoint_id: UUID) -> bool:
        """Send the command; the outcome comes as a report. False: nobody answered yet."""
        command = Capture(
            checkpoint_id=checkpoint_id,
            checkpoint_type=CheckpointType.MANUAL,
            creation_context=CreationContext.REQUESTED,
            deadline_s=self._settings.capture_deadline_s,
        )
        subject = at.command(slug, machine_id, epoch, "Capture")
        timeout_s = self._settings.checkpointer_command_timeout_s
        try:
            await self._nc.request(subject, command.model_dump_json().encode(), timeout=timeout_s)
        except nats.errors.NoRespondersError:
            return False
        except (nats.errors.Error, TimeoutError):
            return True  # it was heard and takes its time, or the answer is lost: the report tells, or the deadline
        return True


def _genesis(snapshot: str, held: Held) -> TakeGenesis:
    return TakeGenesis(snapshot, held.file_count, held.size_bytes, stored_bytes=0)
