"""What happens to a project."""

from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from events.base import NAME_CHARS_MAX, Digest, Event, Greediness, Id, Text, Value
from events.words import ProjectStatus, Said


class CheckpointPolicy(Value):
    """When the machines of a project are captured on their own."""

    at_start: bool = True
    at_end: bool = True
    interval_s: Annotated[int, Field(ge=5, le=86_400)] = 300
    """While files change, at least this often."""


Metadata = Annotated[dict[str, Annotated[str, Field(max_length=NAME_CHARS_MAX)]], Field(max_length=32)]


class ProjectEvent(Event):
    """The base of what happens to a project; the aggregate's id is the slug."""

    aggregate: ClassVar[str] = "project"


class ProjectCreated(ProjectEvent):
    """A project exists from now on. Said at the door; answered by issuer (account) and checkpointer (genesis).

    `genesis` is the digest of a snapshot that is already in the chunk store; without it the project starts empty.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.DOOR,)

    description: Text = ""
    greediness: Greediness = Decimal("0.50")
    genesis: Digest | None = None
    checkpoint_policy: CheckpointPolicy = CheckpointPolicy()
    metadata: Metadata = {}


class ProjectUpdated(ProjectEvent):
    """Settings of a project changed; what is None stays. Said at the door.

    `current_checkpoint_id` moves the trunk by hand: the next goal without `from` starts there.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.DOOR,)

    description: Text | None = None
    greediness: Greediness | None = None
    status: Literal[ProjectStatus.ACTIVE, ProjectStatus.PAUSED] | None = None
    checkpoint_policy: CheckpointPolicy | None = None
    current_checkpoint_id: Id | None = None
    metadata: Metadata | None = None


class ProjectArchived(ProjectEvent):
    """A project takes no more requests; its history stays. Said at the door."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.DOOR,)

    reason: Text = ""


class ProjectAdvanced(ProjectEvent):
    """The trunk moved on: the next goal without `from` starts from this checkpoint.

    Said by the checkpointer for genesis, by the spawner in one batch with the end of a machine that started
    from the trunk and succeeded.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.CHECKPOINTER, Said.SPAWNER)

    checkpoint_id: Id
    machine_id: Id | None = None
