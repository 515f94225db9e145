"""The life of a checkpoint; the aggregate's id is the checkpoint's. All facts are said by the checkpointer."""

from typing import Annotated, ClassVar

from pydantic import Field

from events.base import Amount, Count, Digest, Epoch, Event, Id, Name, Text, Value
from events.words import CheckpointType, CreationContext, Resource, Said


class CheckpointEvent(Event):
    """The base of what happens to a checkpoint."""

    aggregate: ClassVar[str] = "checkpoint"


class Balance(Value):
    """What a budget account stood at when the checkpoint was taken."""

    allocated: Amount
    used: Amount
    reserved: Amount


class CheckpointRequested(CheckpointEvent):
    """Somebody wants a running machine captured now. Said at the door; answered by CheckpointTaken or CheckpointFailed."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.DOOR,)

    machine_id: Id
    description: Text = ""


class CheckpointTaken(CheckpointEvent):
    """A snapshot is durable in the chunk store and belongs to the tree from now on."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.CHECKPOINTER,)

    checkpoint_type: CheckpointType
    creation_context: CreationContext
    snapshot: Digest
    """The manifest's digest; the manifest itself is in the chunk store."""
    parent_id: Id | None = None
    machine_id: Id | None = None
    """None for genesis."""
    epoch: Epoch | None = None
    file_count: Count
    size_bytes: Count
    """All files, uncompressed."""
    stored_bytes: Count
    """What this checkpoint added to the chunk store, compressed."""
    captured_bytes: Count = 0
    """What was read anew, uncompressed; captured_bytes / stored_bytes is the compression ratio."""
    capture_ms: Count = 0
    added: Count = 0
    changed: Count = 0
    removed: Count = 0
    skipped: Annotated[tuple[Name, ...], Field(max_length=32)] = ()
    """What could not be captured, e.g. `run/app.sock: socket`; bounded, the last may say how many more."""
    description: Text = ""
    log_seq: Count = 0
    """The machine's last event in the log when it was taken."""
    balance: Annotated[dict[Resource, Balance], Field(max_length=8)] = {}


class CheckpointFailed(CheckpointEvent):
    """A capture did not come about; the machine goes on. A failed checkpoint is never an outcome."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.CHECKPOINTER,)

    machine_id: Id | None = None
    reason: Text


class CheckpointVerified(CheckpointEvent):
    """The snapshot was restored into scratch and compared."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.CHECKPOINTER,)

    file_count: Count
    verify_ms: Count


class CheckpointCorrupted(CheckpointEvent):
    """The snapshot no longer restores to what was captured; it is not started from again."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.CHECKPOINTER,)

    reason: Text


class CheckpointPinned(CheckpointEvent):
    """Never drop it. Said at the door."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.DOOR,)

    reason: Text = ""


class CheckpointUnpinned(CheckpointEvent):
    """Retention may drop it again. Said at the door."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.DOOR,)


class CheckpointPurged(CheckpointEvent):
    """The bytes are gone; the node stays in the tree."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.CHECKPOINTER,)

    reason: Text
    freed_bytes: Count = 0
