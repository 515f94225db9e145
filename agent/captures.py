"""When the workspace is captured, one capture at a time: by policy, and when the hub asks."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from uuid import UUID

import structlog

from agent.freezer import Freezer
from agent.options import Options
from agent.reports import Reports
from agent.transcript import has_results
from agent.workspace import NoStore, Restored, Workspace
from events.agent import AgentSpec, Capture, CaptureFailed, NothingChanged, WorkspaceCaptured
from events.fresh import uuid7
from events.words import CheckpointType, CreationContext
from snapshots.capture import Snapshot
from snapshots.errors import SnapshotError

CAPTURES_WAITING_MAX = 8
CAPTURES_ANSWERED_MAX = 64
"""Answers remembered: a checkpoint is one moment, whoever did not hear of it in time asks again."""

log = structlog.get_logger()
R = TypeVar("R")
Answer = WorkspaceCaptured | NothingChanged | CaptureFailed


@dataclass(frozen=True, slots=True)
class _Kind:
    checkpoint_id: UUID
    type: CheckpointType
    context: CreationContext


class Captures:
    """The chain of this incarnation's checkpoints; each is reported to the checkpointer as soon as it is durable."""

    def __init__(self, spec: AgentSpec, workspace: Workspace, reports: Reports, options: Options) -> None:
        self._spec, self._workspace, self._reports, self._options = spec, workspace, reports, options
        self._lock = asyncio.Lock()
        self._stands = asyncio.Event()
        self._running: dict[UUID, asyncio.Task[Answer]] = {}
        self._answered: dict[UUID, Answer] = {}
        self.freezer = Freezer(())
        self.transcripts: tuple[str, ...] = ()
        """Where the agent writes its conversation; empty: it has none."""
        self.parent_id: UUID = spec.parent_checkpoint_id
        self.snapshot: str = spec.snapshot

    def workspace_stands(self) -> None:
        """From now on there is something to capture; what was asked before has waited for this."""
        self._stands.set()

    async def at_start(self, restored: Restored) -> None:
        """Checkpoint what the runner finds; without injected files that is the base's own snapshot, already stored."""
        kind = _Kind(uuid7(), CheckpointType.AUTOMATIC, CreationContext.INITIAL_STATE)
        if self._spec.files:
            await self._capture(kind, self._options.capture_deadline_s)
            return
        await self._reports.say(
            "checkpointer",
            WorkspaceCaptured(
                checkpoint_id=kind.checkpoint_id,
                checkpoint_type=kind.type,
                creation_context=kind.context,
                parent_id=self.parent_id,
                snapshot=self.snapshot,
                file_count=restored.file_count,
                size_bytes=restored.size_bytes,
                stored_bytes=0,
                capture_ms=0,
            ),
        )
        self.parent_id = kind.checkpoint_id

    async def at_end(self, *, parks: bool = False) -> UUID | None:
        """Take the final or the parking checkpoint; None when it could not be had, which is reported."""
        final = (CheckpointType.FINAL, CreationContext.FINAL_STATE)
        parking = (CheckpointType.PARKING, CreationContext.MID_EXECUTION)
        kind = _Kind(uuid7(), *(parking if parks else final))
        answer = await self._capture(kind, self._options.capture_deadline_s)
        return kind.checkpoint_id if isinstance(answer, WorkspaceCaptured) else None

    async def by_interval(self) -> None:
        """Capture whenever the interval has passed and something changed."""
        while True:
            await asyncio.sleep(self._spec.policy.interval_s)
            kind = _Kind(uuid7(), CheckpointType.AUTOMATIC, CreationContext.TIMER)
            await self._capture(kind, self._options.capture_deadline_s, only_changes=True)

    async def on_request(self, asked: Capture) -> Answer:
        """Capture because the hub asks; the same request again joins the one that runs, or gets the answer it got."""
        if (known := self._answered.get(asked.checkpoint_id)) is not None:
            return known
        running = self._running.get(asked.checkpoint_id)
        if running is None:
            if len(self._running) >= CAPTURES_WAITING_MAX:
                reason = f"{len(self._running)} captures are waiting already, at most {CAPTURES_WAITING_MAX}"
                return CaptureFailed(checkpoint_id=asked.checkpoint_id, reason=reason)
            kind = _Kind(asked.checkpoint_id, asked.checkpoint_type, asked.creation_context)
            running = asyncio.create_task(self._as_asked(kind, asked))
            self._running[asked.checkpoint_id] = running
            running.add_done_callback(lambda _: self._running.pop(asked.checkpoint_id, None))
        answer = await asyncio.shield(running)
        self._answered[asked.checkpoint_id] = answer
        while len(self._answered) > CAPTURES_ANSWERED_MAX:
            del self._answered[next(iter(self._answered))]
        return answer

    async def _as_asked(self, kind: _Kind, asked: Capture) -> Answer:
        """Capture once the conversation holds what is asked for; of files alone it is known beforehand whether to."""
        if asked.transcript_has and self.transcripts and self._stands.is_set():
            opens = [partial(self._workspace.open, path) for path in self.transcripts]
            if not await has_results(opens, asked.transcript_has):
                log.info("transcript.incomplete", checkpoint_id=str(kind.checkpoint_id))
        if asked.only_changes and await self._nothing_changed(asked.deadline_s):
            return NothingChanged(checkpoint_id=kind.checkpoint_id)
        return await self._capture(kind, asked.deadline_s)

    async def _nothing_changed(self, deadline_s: float) -> bool:
        """Whether the workspace is as the last checkpoint has it; when in doubt it is not."""
        try:
            async with asyncio.timeout(deadline_s), self._lock:
                if not self._stands.is_set():
                    return False
                looking = asyncio.create_task(asyncio.to_thread(self._workspace.is_unchanged, deadline_s))
                return await _whole(looking)
        except (SnapshotError, TimeoutError):
            return False

    async def _capture(self, kind: _Kind, deadline_s: float, *, only_changes: bool = False) -> Answer:
        try:
            async with asyncio.timeout(deadline_s):
                await self._stands.wait()
                await self._lock.acquire()
            try:
                snapshot = await self._frozen(lambda: self._read(deadline_s))
                if only_changes and snapshot.digest == self.snapshot:
                    return self._report(kind, snapshot)
                answer = self._report(kind, snapshot)
                self.parent_id, self.snapshot = kind.checkpoint_id, snapshot.digest
            finally:
                self._lock.release()
        except (SnapshotError, NoStore, OSError, TimeoutError) as reason:
            words = str(reason) or f"not captured within {deadline_s} s"
            log.warning("checkpoint.failed", checkpoint_id=str(kind.checkpoint_id), reason=words)
            answer = CaptureFailed(checkpoint_id=kind.checkpoint_id, reason=words[:4096])
        await self._reports.say("checkpointer", answer)
        return answer

    async def _read(self, deadline_s: float) -> Snapshot:
        return await _whole(asyncio.create_task(asyncio.to_thread(self._workspace.capture, self.snapshot, deadline_s)))

    async def _frozen(self, read: Callable[[], Awaitable[Snapshot]]) -> Snapshot:
        """Read with the sandbox held still; one that takes too long goes on with it running."""
        if not await asyncio.to_thread(self.freezer.freeze):
            return await read()
        thaw = asyncio.get_running_loop().call_later(self._options.freeze_s_max, self.freezer.thaw)
        try:
            return await read()
        finally:
            thaw.cancel()
            self.freezer.thaw()

    def _report(self, kind: _Kind, snapshot: Snapshot) -> WorkspaceCaptured:
        return WorkspaceCaptured(
            checkpoint_id=kind.checkpoint_id,
            checkpoint_type=kind.type,
            creation_context=kind.context,
            parent_id=self.parent_id,
            snapshot=snapshot.digest,
            file_count=snapshot.file_count,
            size_bytes=snapshot.size_bytes,
            stored_bytes=snapshot.stored_bytes,
            captured_bytes=snapshot.captured_bytes,
            capture_ms=snapshot.capture_ms,
            added=snapshot.added,
            changed=snapshot.changed,
            removed=snapshot.removed,
            skipped=tuple(each[:200] for each in snapshot.skipped if each),
        )


async def _whole(reading: asyncio.Task[R]) -> R:
    """Await what runs in a thread: that cannot be cancelled, and the next capture must not run beside it."""
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        await asyncio.wait({reading})
        raise
