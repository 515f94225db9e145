"""What agents report of captures, made facts once the store is found to hold them."""

from collections.abc import Sequence
from uuid import UUID

import structlog

from domain.checkpoint import Checkpoint, Fail, Take, decide, newest_of
from domain.overview import Known
from events import address as at
from events.agent import CaptureFailed, WorkspaceCaptured
from events.checkpoint import CheckpointEvent
from services.checkpointer.chunks import Chunks
from services.checkpointer.desk import ACTOR, Desk
from services.checkpointer.settings import CheckpointerSettings
from services.kit.delivery import Later, Never, Report
from snapshots.errors import Transient

_log: structlog.stdlib.BoundLogger = structlog.get_logger("checkpointer")


class Reports:
    """The handler of `from.*.*.*.checkpointer.>`."""

    def __init__(self, desk: Desk, chunks: Chunks, settings: CheckpointerSettings) -> None:
        self._desk = desk
        self._chunks = chunks
        self._settings = settings

    async def handle(self, report: Report) -> None:
        """Record what is reported, once; what a fenced epoch says is refused.

        Raises:
            Never: The epoch is over, the machine has ended or is none of this project, or it is no capture.
            Later: The store could not answer.
        """
        match report.model:
            case WorkspaceCaptured(checkpoint_id=checkpoint_id) | CaptureFailed(checkpoint_id=checkpoint_id):
                if self._desk.overview.checkpoint(report.project, checkpoint_id).is_settled:
                    return  # delivered again
                known = await self._speaker(report)
                await self._record(report, known, checkpoint_id)
            case _:
                raise Never(f"{report.type} is nothing the checkpointer hears")

    async def _speaker(self, report: Report) -> Known:
        """The machine that speaks, with the epoch that it may speak for."""
        address = at.machine(report.project, report.machine_id)
        known = self._desk.overview.machines.get(address)
        if known is None or not known.machine.hears(report.epoch):
            known = await self._desk.machine(address)
        if known is None:
            raise Never(f"machine {report.machine_id} has ended, or is none of project {report.project}")
        if not known.machine.hears(report.epoch):
            raise Never(f"epoch {report.epoch} is over: the machine is {known.machine.phase} in {known.machine.epoch}")
        return known

    async def _record(self, report: Report, known: Known, checkpoint_id: UUID) -> None:
        if isinstance(report.model, WorkspaceCaptured):
            command = await self._checked(report.model, known)
        else:
            assert isinstance(report.model, CaptureFailed), "told apart in handle"
            command = Fail(known.machine_id, report.model.reason)

        def decided(checkpoint: Checkpoint) -> Sequence[CheckpointEvent]:
            return decide(command, checkpoint)

        said = await self._desk.say(report.project, checkpoint_id, decided, lambda: known.cause(ACTOR))
        for event in said:
            _log.info(f"checkpoint.{event.type().removeprefix('Checkpoint').lower()}", checkpoint_id=str(checkpoint_id))

    async def _checked(self, captured: WorkspaceCaptured, known: Known) -> Take | Fail:
        """Believe the store, not the report: what it does not hold was not taken."""
        try:
            held = await self._chunks.held(captured.snapshot)
        except Transient as error:
            raise Later(self._settings.checkpointer_retry_s, f"the store could not answer: {error}") from error
        if held.problem:
            return Fail(known.machine_id, held.problem)
        slug = known.address.project
        return Take(
            report=captured.model_copy(update={"file_count": held.file_count, "size_bytes": held.size_bytes}),
            machine_id=known.machine_id,
            epoch=known.machine.epoch,
            parent_id=self._parent(captured, known),
            log_seq=known.seq,
            balance=await self._desk.balance(slug, known.machine_id),
        )

    def _parent(self, captured: WorkspaceCaptured, known: Known) -> UUID:
        """The parent it names, when that is in the tree; where that one failed, what the machine last took."""
        tree = self._desk.overview.project(known.address.project).tree
        named = tree.get(captured.parent_id)
        if named is not None and named.taken is not None and captured.parent_id != captured.checkpoint_id:
            return captured.parent_id
        assert known.machine.incarnation is not None, "an epoch that is heard has an incarnation"
        return newest_of(tree, known.machine_id, known.machine.epoch) or known.machine.incarnation.start.checkpoint_id
