"""Drops what the keep rules say, on explicit settings only: first the fact, then the bytes."""

import asyncio
from collections.abc import Iterable
from uuid import UUID

import structlog

from domain.checkpoint import Purge, decide, newest_of
from domain.overview import Overview, Project
from domain.retention import Keep, droppable
from events.envelope import Cause
from events.fresh import now
from services.checkpointer.chunks import Chunks
from services.checkpointer.desk import ACTOR, Desk
from services.checkpointer.settings import CheckpointerSettings
from services.kit.errors import KitError
from snapshots.errors import SnapshotError

_log: structlog.stdlib.BoundLogger = structlog.get_logger("checkpointer")


def keep_of(settings: CheckpointerSettings) -> Keep:
    """The keep rules as the settings have them."""
    return Keep(
        last=settings.keep_last,
        hourly=settings.keep_hourly,
        daily=settings.keep_daily,
        weekly=settings.keep_weekly,
        monthly=settings.keep_monthly,
        bytes_max=settings.keep_bytes_max,
    )


class Retention:
    """Runs now and then; between two runs nothing is dropped."""

    def __init__(self, desk: Desk, chunks: Chunks, settings: CheckpointerSettings, keep: Keep | None = None) -> None:
        self._desk = desk
        self._chunks = chunks
        self._settings = settings
        self.keep = keep or keep_of(settings)
        self._is_swept = False
        """Whether nothing was purged since the last sweep; an earlier run may have ended between the two."""

    async def run(self) -> None:
        while self.keep.is_anything:
            await asyncio.sleep(self._settings.retention_every_s)
            try:
                await self.once()
            except (KitError, SnapshotError, OSError) as error:
                _log.warning("retention.delayed", reason=str(error))

    async def once(self) -> int:
        """Purge what may go and sweep the store. Returns how many bytes were freed."""
        dropped = 0
        command = Purge("retention")
        for project in list(self._desk.overview.projects.values()):
            for checkpoint_id in droppable(project.tree, self.keep, in_use(self._desk.overview, project), now()):
                await self._desk.say(
                    project.slug, checkpoint_id, lambda known: decide(command, known), lambda: Cause(ACTOR)
                )
                dropped += 1
                self._is_swept = False
        if self._is_swept or not self.keep.is_anything:
            return 0
        swept = await self._chunks.sweep(live(self._desk.overview), self._settings.sweep_grace_s)
        self._is_swept = True
        _log.info("store.swept", checkpoints=dropped, freed_bytes=swept.freed_bytes, live_chunks=swept.live_chunks)
        return swept.freed_bytes


def in_use(overview: Overview, project: Project) -> set[UUID]:
    """What somebody stands on: the trunk, and all that a machine of the project started from or may go back to."""
    used = {project.current} if project.current else set[UUID]()
    for known in overview.of_project(project.slug):
        machine = known.machine
        wanted: Iterable[UUID | None] = (
            machine.request.from_checkpoint_id if machine.request else None,
            machine.base.checkpoint_id if machine.base else None,
            machine.incarnation.start.checkpoint_id if machine.incarnation else None,
            machine.next_from,
            machine.restore,
            newest_of(project.tree, known.machine_id),
        )
        used |= {each for each in wanted if each is not None}
    return used


def live(overview: Overview) -> set[str]:
    """The snapshots of all projects that must stay, corrupt ones too: what is left of them is evidence."""
    return {
        checkpoint.taken.snapshot
        for project in overview.projects.values()
        for checkpoint in project.tree.values()
        if checkpoint.taken is not None and not checkpoint.purged
    }
