"""Where the checkpointer's picture of the log meets what it says."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from domain.budget import Account, balances
from domain.budget import account as accounts
from domain.checkpoint import Checkpoint
from domain.overview import ENDED_FILTERS, FILTERS, Known, Overview, Project, is_fed
from events import address as at
from events.base import Event
from events.checkpoint import Balance, CheckpointEvent, CheckpointTaken
from events.envelope import Cause, Envelope, Recorded
from events.fresh import now, uuid7
from events.project import ProjectAdvanced
from events.words import Resource
from services.kit.errors import Conflict, Transient
from services.kit.locks import KeyedLocks
from services.kit.log import Log, Write
from services.kit.message import decode
from services.kit.repository import Repository

ACTOR = "checkpointer"
CONFLICTS_MAX = 20
LOAD_BATCH = 5_000

Decide: TypeAlias = Callable[[Checkpoint], Sequence[CheckpointEvent]]


@dataclass(slots=True)
class Moved:
    """Set whenever something was heard; whoever waits looks again."""

    event: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        self.event.set()

    async def wait(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self.event.wait()
        except TimeoutError:
            return
        finally:
            self.event.clear()


class Desk:
    """The fold of the log, kept up to date, and the one way the checkpointer appends."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.overview = Overview()
        self.position = 0
        self._locks: KeyedLocks[at.Address] = KeyedLocks()
        self._accounts: Repository[Account] = Repository(log, Account, accounts.evolve)

    async def load(self) -> None:
        """Read the log up to its present end; what belongs to machines that have ended is not even parsed.

        With at most one filter at a time: nats-server 2.15 takes 70 times as long for several (34,000 events: 16.6 s
        against 0.24 s for all there are).
        """
        ended: set[str] = set()
        for each in ENDED_FILTERS:
            async for messages in self._log.follow_raw(0, (each,), batch=LOAD_BATCH, stop_at_end=True):
                ended.update(message.subject.rpartition(".")[0] for message in messages)
        async for messages in self._log.follow_raw(0, (), batch=LOAD_BATCH, stop_at_end=True):
            for message in messages:
                if is_fed(message.subject) and message.subject.rpartition(".")[0] not in ended:
                    self.overview.take(decode(message))
            self.position = messages[-1].seq

    async def follow(self, heard: Callable[[], None]) -> None:
        """Keep reading for ever; `heard` is called after each batch."""
        async for batch in self._log.follow(self.position, FILTERS):
            self._take(batch)
            heard()

    def _take(self, batch: Sequence[Recorded]) -> None:
        for recorded in batch:
            self.overview.take(recorded)
        self.position = batch[-1].seq

    async def machine(self, address: at.Address) -> Known | None:
        """Return the machine as the log has it now, not only as it was heard; None: it has ended or never was."""
        known = self.overview.machines.get(address)
        await self._refresh(address, known.seq if known else 0)
        return self.overview.machines.get(address)

    async def balance(self, slug: str, machine_id: UUID) -> dict[Resource, Balance]:
        """What the machine may use stands at, by resource: its own account where it has one, else its project's."""
        project, own = await asyncio.gather(
            self._accounts.get(at.budget(slug, slug)), self._accounts.get(at.budget(slug, machine_id))
        )
        return {**balances(project.state), **balances(own.state)}

    async def say(
        self, slug: str, checkpoint_id: UUID, decide: Decide, cause: Callable[[], Cause], *, advance: bool = False
    ) -> Sequence[CheckpointEvent]:
        """Decide on the checkpoint as it is, append, and decide again where somebody else was faster.

        Args:
            advance: Move the project's trunk onto it in the same batch, when it is taken.
        Returns:
            What was said; folded already.
        """
        address = at.checkpoint(slug, checkpoint_id)
        async with self._locks.hold(address):
            for _ in range(CONFLICTS_MAX):
                project = self.overview.project(slug)
                events = decide(self.overview.checkpoint(slug, checkpoint_id))
                if not events:
                    return ()
                taken = advance and any(isinstance(event, CheckpointTaken) for event in events)
                moved = [ProjectAdvanced(checkpoint_id=checkpoint_id)] if taken else []
                try:
                    await self._append(address, project, checkpoint_id, events, moved, cause())
                except Conflict:
                    await self._refresh(address, project.tree_seqs.get(checkpoint_id, 0))
                    await self._refresh(at.project(slug), project.seq)
                else:
                    return events
        raise Transient(f"{address}: still in conflict after {CONFLICTS_MAX} rounds")

    async def _append(  # noqa: PLR0917 - one append, spelled out
        self,
        address: at.Address,
        project: Project,
        checkpoint_id: UUID,
        events: Sequence[CheckpointEvent],
        moved: Sequence[ProjectAdvanced],
        cause: Cause,
    ) -> None:
        moment, trunk = now(), at.project(project.slug)
        ids, moved_ids = [uuid7() for _ in events], [uuid7() for _ in moved]
        writes = [Write(address, project.tree_seqs.get(checkpoint_id, 0), tuple(events), tuple(ids))]
        if moved:
            writes.append(Write(trunk, project.seq, tuple(moved), tuple(moved_ids)))
        appended = await self._log.append(*writes, cause=cause)
        first = appended.seq - len(events) - len(moved) + 1
        self._fold(address, events, ids, first, moment, cause)
        self._fold(trunk, moved, moved_ids, first + len(events), moment, cause)

    def _fold(  # noqa: PLR0917 - one block of an append, spelled out
        self,
        address: at.Address,
        events: Sequence[Event],
        ids: Sequence[UUID],
        first: int,
        moment: datetime,
        cause: Cause,
    ) -> None:
        for offset, (event, event_id) in enumerate(zip(events, ids, strict=True)):
            envelope = Envelope(address, event.type(), event.version, cause, event_id, moment)
            self.overview.take(Recorded(first + offset, moment, envelope, event))

    async def _refresh(self, address: at.Address, after: int) -> None:
        for recorded in (await self._log.load(address, after=after)).events:
            self.overview.take(recorded)
