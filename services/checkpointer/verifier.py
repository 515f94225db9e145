"""Restores what was taken into scratch and compares, in the background: verified, or corrupt and never started from."""

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog

from domain.checkpoint import Verify, decide
from events.envelope import Cause
from events.fresh import now
from services.checkpointer.chunks import Chunks, Verdict
from services.checkpointer.desk import ACTOR, Desk, Moved
from services.checkpointer.settings import CheckpointerSettings
from services.kit.errors import KitError
from snapshots.errors import SnapshotError

REMEMBERED_MAX = 10_000
PAUSE_S_MAX = 300.0
_log: structlog.stdlib.BoundLogger = structlog.get_logger("checkpointer")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A checkpoint that waits to be verified."""

    project: str
    checkpoint_id: UUID
    snapshot: str
    age: timedelta


class Verifier:
    """One at a time, oldest first; after a restart it goes on with what the log says is pending."""

    def __init__(self, desk: Desk, chunks: Chunks, settings: CheckpointerSettings) -> None:
        self._desk = desk
        self._chunks = chunks
        self._settings = settings
        self.moved = Moved()
        self._good: dict[str, tuple[float, int]] = {}
        """Snapshots found good: when (monotonic), and how many files."""
        self._put_off_until: dict[UUID, tuple[float, float]] = {}
        """Those that could not be looked at: the pause, and when it is over (monotonic)."""
        self.oldest_s = 0.0
        """How long the one that waits longest has waited."""

    async def run(self) -> None:
        while True:
            waiting = self._next()
            if waiting is None:
                await self.moved.wait(min(self._settings.checkpointer_look_s * 10, self._settings.checkpointer_retry_s))
                continue
            try:
                took_s = await self._verify(waiting)
            except (SnapshotError, OSError, KitError) as error:
                _log.warning("verification.delayed", checkpoint_id=str(waiting.checkpoint_id), reason=str(error))
                self._put_off(waiting.checkpoint_id)
                continue
            self._put_off_until.pop(waiting.checkpoint_id, None)
            if waiting.age.total_seconds() < self._settings.verify_within_s:
                await asyncio.sleep(took_s * (1 / self._settings.verify_share - 1))

    def _put_off(self, checkpoint_id: UUID) -> None:
        """Let the others go first: one that needs more scratch than there is must not hold them all up."""
        pause_s, _ = self._put_off_until.get(checkpoint_id, (self._settings.checkpointer_retry_s / 2, 0.0))
        pause_s = min(PAUSE_S_MAX, 2 * pause_s)
        self._put_off_until[checkpoint_id] = (pause_s, time.monotonic() + pause_s)

    @property
    def is_late(self) -> bool:
        return self.oldest_s > self._settings.verify_within_s

    def _next(self) -> Waiting | None:
        moment, clock = now(), time.monotonic()
        oldest: Waiting | None = None
        oldest_s = 0.0
        for project in self._desk.overview.projects.values():
            for checkpoint_id in project.unverified:
                checkpoint = project.tree[checkpoint_id]
                assert checkpoint.taken is not None, "what is unverified was taken"
                age = moment - checkpoint.taken_at
                oldest_s = max(oldest_s, age.total_seconds())
                if self._put_off_until.get(checkpoint_id, (0.0, 0.0))[1] > clock:
                    continue
                if oldest is None or age > oldest.age:
                    oldest = Waiting(project.slug, checkpoint_id, checkpoint.taken.snapshot, age)
        self.oldest_s = oldest_s
        return oldest

    async def _verify(self, waiting: Waiting) -> float:
        started = time.monotonic()
        verdict = self._remembered(waiting.snapshot) or await self._chunks.verdict(waiting.snapshot)
        if verdict.problem:
            _log.error("checkpoint.corrupted", checkpoint_id=str(waiting.checkpoint_id), problem=verdict.problem[:500])
        else:
            self._remember(waiting.snapshot, verdict)
        command = Verify(verdict.file_count, verdict.verify_ms, verdict.problem)
        await self._desk.say(
            waiting.project, waiting.checkpoint_id, lambda known: decide(command, known), lambda: Cause(ACTOR)
        )
        return time.monotonic() - started

    def _remembered(self, snapshot: str) -> Verdict | None:
        found = self._good.get(snapshot)
        if found is None or time.monotonic() - found[0] > self._settings.verified_for_s:
            return None
        return Verdict(found[1], 0)

    def _remember(self, snapshot: str, verdict: Verdict) -> None:
        if snapshot not in self._good or verdict.verify_ms > 0:
            self._good[snapshot] = (time.monotonic(), verdict.file_count)
        while len(self._good) > REMEMBERED_MAX:
            del self._good[next(iter(self._good))]
