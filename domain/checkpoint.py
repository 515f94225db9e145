"""The life of a checkpoint, and what its place in the tree says: what to start from, what may be dropped.

A checkpoint is settled once: taken or failed, whichever is said first. The tree is any mapping of a project's
checkpoints by id; parents are only ever older, so walks end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import assert_never
from uuid import UUID

from domain.machine_state import Start
from events import checkpoint as e
from events.agent import WorkspaceCaptured
from events.base import Event
from events.ids import derived
from events.words import CheckpointType, CreationContext, Resource, VerificationStatus

NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as its events tell it; `Checkpoint()` is one nobody has heard of."""

    requested: e.CheckpointRequested | None = None
    taken: e.CheckpointTaken | None = None
    taken_at: datetime = NEVER
    seq: int = 0
    """Seq of its CheckpointTaken: the order in which checkpoints came to be."""
    failed: str | None = None
    """Why it did not come about."""
    verification: VerificationStatus = VerificationStatus.PENDING
    pinned: bool = False
    purged: bool = False

    @property
    def is_settled(self) -> bool:
        return self.taken is not None or self.failed is not None

    @property
    def is_good(self) -> bool:
        """Whether a machine may start from it."""
        return self.taken is not None and not self.purged and self.verification is not VerificationStatus.CORRUPT

    @property
    def is_pending(self) -> bool:
        """Whether it waits to be verified."""
        return self.is_good and self.verification is VerificationStatus.PENDING

    @property
    def parent_id(self) -> UUID | None:
        return self.taken.parent_id if self.taken else None


Tree = Mapping[UUID, Checkpoint]


def evolve(checkpoint: Checkpoint, event: Event, at: datetime, seq: int) -> Checkpoint:  # noqa: PLR0911 - one case an event
    """Return the checkpoint after `event`, which the log recorded at `at` as number `seq`."""
    match event:
        case e.CheckpointRequested():
            return replace(checkpoint, requested=event)
        case e.CheckpointTaken() if not checkpoint.is_settled:
            return replace(checkpoint, taken=event, taken_at=at, seq=seq)
        case e.CheckpointFailed() if not checkpoint.is_settled:
            return replace(checkpoint, failed=event.reason)
        case e.CheckpointVerified() if checkpoint.is_pending:
            return replace(checkpoint, verification=VerificationStatus.VERIFIED)
        case e.CheckpointCorrupted():
            return replace(checkpoint, verification=VerificationStatus.CORRUPT)
        case e.CheckpointPinned() | e.CheckpointUnpinned():
            return replace(checkpoint, pinned=isinstance(event, e.CheckpointPinned))
        case e.CheckpointPurged():
            return replace(checkpoint, purged=True)
        case _:
            return checkpoint


@dataclass(frozen=True, slots=True)
class Take:
    """The store holds it, manifest and chunks."""

    report: WorkspaceCaptured
    machine_id: UUID
    epoch: int
    parent_id: UUID
    log_seq: int
    balance: dict[Resource, e.Balance]


@dataclass(frozen=True, slots=True)
class TakeGenesis:
    """The store holds what a project begins with."""

    snapshot: str
    file_count: int
    size_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Fail:
    """It will not come about."""

    machine_id: UUID | None
    reason: str


@dataclass(frozen=True, slots=True)
class Verify:
    """It was restored into scratch; `problem` says what was found there, empty: all is well."""

    file_count: int
    verify_ms: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Purge:
    """Retention drops its bytes."""

    reason: str
    freed_bytes: int = 0


Command = Take | TakeGenesis | Fail | Verify | Purge


def decide(command: Command, checkpoint: Checkpoint) -> list[e.CheckpointEvent]:
    """Return what happens to the checkpoint; nothing when it was said before."""
    match command:
        case Take():
            return [] if checkpoint.is_settled else [_taken(command, checkpoint)]
        case TakeGenesis():
            return [] if checkpoint.is_settled else [_genesis(command)]
        case Fail(machine_id, reason):
            return [] if checkpoint.is_settled else [e.CheckpointFailed(machine_id=machine_id, reason=reason[:4_096])]
        case Verify():
            return _verified(command) if checkpoint.is_pending else []
        case Purge(reason, freed):
            return [e.CheckpointPurged(reason=reason, freed_bytes=freed)] if _has_bytes(checkpoint) else []
        case _:
            assert_never(command)


def _has_bytes(checkpoint: Checkpoint) -> bool:
    return checkpoint.taken is not None and not checkpoint.purged and not checkpoint.pinned


def _taken(command: Take, checkpoint: Checkpoint) -> e.CheckpointTaken:
    report = command.report
    return e.CheckpointTaken(
        checkpoint_type=report.checkpoint_type,
        creation_context=report.creation_context,
        snapshot=report.snapshot,
        parent_id=command.parent_id,
        machine_id=command.machine_id,
        epoch=command.epoch,
        file_count=report.file_count,
        size_bytes=report.size_bytes,
        stored_bytes=report.stored_bytes,
        captured_bytes=report.captured_bytes,
        capture_ms=report.capture_ms,
        added=report.added,
        changed=report.changed,
        removed=report.removed,
        skipped=report.skipped,
        description=checkpoint.requested.description if checkpoint.requested else "",
        log_seq=command.log_seq,
        balance=command.balance,
    )


def _genesis(command: TakeGenesis) -> e.CheckpointTaken:
    return e.CheckpointTaken(
        checkpoint_type=CheckpointType.GENESIS,
        creation_context=CreationContext.INITIAL_STATE,
        snapshot=command.snapshot,
        file_count=command.file_count,
        size_bytes=command.size_bytes,
        stored_bytes=command.stored_bytes,
        added=command.file_count,
    )


def _verified(command: Verify) -> list[e.CheckpointEvent]:
    if command.problem:
        return [e.CheckpointCorrupted(reason=command.problem[:4_096])]
    return [e.CheckpointVerified(file_count=command.file_count, verify_ms=command.verify_ms)]


def genesis_id(slug: str) -> UUID:
    """The id of a project's first checkpoint."""
    return derived("genesis", slug)


def lineage(tree: Tree, checkpoint_id: UUID | None) -> Iterator[UUID]:
    """Yield a checkpoint and its ancestors, youngest first."""
    while checkpoint_id is not None and (checkpoint := tree.get(checkpoint_id)) is not None and checkpoint.taken:
        yield checkpoint_id
        checkpoint_id = checkpoint.parent_id


def children(tree: Tree, checkpoint_id: UUID) -> list[UUID]:
    return [child for child, checkpoint in tree.items() if checkpoint.parent_id == checkpoint_id]


def last_good(tree: Tree, checkpoint_id: UUID | None) -> UUID | None:
    """Return the nearest checkpoint at or above this one that a machine may start from."""
    return next((each for each in lineage(tree, checkpoint_id) if tree[each].is_good), None)


def newest_of(tree: Tree, machine_id: UUID, since_epoch: int = 1) -> UUID | None:
    """Return the last good checkpoint that a machine's incarnations took, from an epoch on."""
    own = [
        (checkpoint.seq, each)
        for each, checkpoint in tree.items()
        if checkpoint.is_good
        and checkpoint.taken is not None
        and checkpoint.taken.machine_id == machine_id
        and (checkpoint.taken.epoch or 0) >= since_epoch
    ]
    return max(own)[1] if own else None


def recovery_candidates(tree: Tree, machine_id: UUID, base: Start, since_epoch: int) -> tuple[Start, ...]:
    """Return what a lost machine may go on from, best first: its newest good checkpoint, then back to its base.

    A corrupted base is replaced by the nearest good ancestor; it stays when there is none, and the restore says why
    it failed.
    """
    found: list[Start] = []
    for each in lineage(tree, newest_of(tree, machine_id, since_epoch)):
        if each == base.checkpoint_id:
            break
        if tree[each].is_good:
            found.append(start_of(tree, each) or base)
    return (*found, start_of(tree, last_good(tree, base.checkpoint_id)) or base)


def start_of(tree: Tree, checkpoint_id: UUID | None) -> Start | None:
    """Return what an incarnation started from this checkpoint restores; None: it is not known, or was not taken."""
    checkpoint = tree.get(checkpoint_id) if checkpoint_id else None
    if checkpoint_id is None or checkpoint is None or checkpoint.taken is None:
        return None
    return Start(checkpoint_id, checkpoint.taken.snapshot)


def why_not(tree: Tree, checkpoint_id: UUID) -> str:
    """Say why a machine may not start from this checkpoint; empty: it may."""
    checkpoint = tree.get(checkpoint_id)
    if checkpoint is None or not checkpoint.is_settled:
        return f"there is no checkpoint {checkpoint_id} in this project"
    if checkpoint.taken is None:
        return f"checkpoint {checkpoint_id} was not taken: {checkpoint.failed}"
    if checkpoint.is_good:
        return ""
    what = "was purged" if checkpoint.purged else "is corrupt"
    good = last_good(tree, checkpoint_id)
    return f"checkpoint {checkpoint_id} {what}; the nearest good one above it is {good or 'none'}"
