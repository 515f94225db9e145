"""What the spawner and the checkpointer know of all projects at once: their own fold of the log, never the read model.

Fed with recorded events in the order of the log, beginning with the first one. It may be fed what was just appended
before it comes back from the log: an event that an aggregate already has is not taken twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

from domain import checkpoint as checkpoints
from domain import machine_state
from domain.checkpoint import Checkpoint
from domain.machine_state import Machine
from events import checkpoint as c
from events import machine as m
from events import project as p
from events.address import Address
from events.envelope import Cause, Recorded

FILTERS = ("av.*.machine.>", "av.*.checkpoint.>", "av.*.project.>")
"""What it is to be fed with."""
ENDED_FILTERS = ("av.*.machine.*.MachineEnded", "av.*.machine.*.MachineDenied")
"""Machines of which one of these is in the log need not be fed at all: most of a long log is theirs."""

_AGGREGATES = frozenset(each.split(".")[2] for each in FILTERS)


def is_fed(subject: str) -> bool:
    """Whether an event with this subject passes `FILTERS`."""
    return subject.split(".", 3)[2] in _AGGREGATES


@dataclass(slots=True, eq=False)
class Project:
    """A project with the tree of its checkpoints."""

    slug: str
    created: p.ProjectCreated | None = None
    seq: int = 0
    current: UUID | None = None
    """Where the trunk stands."""
    policy: p.CheckpointPolicy = field(default_factory=p.CheckpointPolicy)
    agent_policy: p.AgentPolicy = field(default_factory=p.AgentPolicy)
    tree: dict[UUID, Checkpoint] = field(default_factory=dict[UUID, Checkpoint])
    tree_seqs: dict[UUID, int] = field(default_factory=dict[UUID, int])
    unsettled: set[UUID] = field(default_factory=set[UUID])
    """Checkpoints that were asked for and neither taken nor failed yet."""
    unverified: set[UUID] = field(default_factory=set[UUID])
    """Checkpoints that were taken and not verified yet."""
    last_id: UUID | None = None
    correlation: UUID | None = None

    def cause(self, actor: str, reason: str = "") -> Cause:
        return Cause(actor, self.last_id, self.correlation, reason)


@dataclass(slots=True, eq=False)
class Known:
    """A machine that has not ended."""

    address: Address
    machine_id: UUID
    machine: Machine
    seq: int = 0
    """Of its last event: what an append must expect."""
    last_id: UUID | None = None
    correlation: UUID | None = None

    def cause(self, actor: str, reason: str = "") -> Cause:
        """The cause of what `actor` does about the machine as it is now."""
        return Cause(actor, self.last_id, self.correlation, reason)


class Overview:
    """All projects, and all machines that have not ended."""

    def __init__(self) -> None:
        self.projects: dict[str, Project] = {}
        self.machines: dict[Address, Known] = {}

    def take(self, recorded: Recorded) -> None:
        """Fold an event: as the log gives it, or as it was just appended."""
        match recorded.event:
            case m.MachineEvent():
                self._machine(recorded)
            case c.CheckpointEvent():
                self._checkpoint(recorded)
            case p.ProjectEvent():
                self._project(recorded)
            case _:
                pass

    def project(self, slug: str) -> Project:
        """Return the project; an empty one where nothing is known of it."""
        return self.projects.get(slug) or Project(slug)

    def checkpoint(self, slug: str, checkpoint_id: UUID) -> Checkpoint:
        return self.project(slug).tree.get(checkpoint_id) or Checkpoint()

    def of_project(self, slug: str) -> Iterator[Known]:
        return (known for known in self.machines.values() if known.address.project == slug)

    def same_id_elsewhere(self, known: Known) -> Known | None:
        """Return the machine of another project that has the same id and began before: hosts know machines by id alone."""
        same = (other for other in self.machines.values() if other.machine_id == known.machine_id)
        return next((other for other in same if other is not known and other.machine.epoch > 0), None)

    def _machine(self, recorded: Recorded) -> None:
        envelope, address = recorded.envelope, recorded.envelope.address
        known = self.machines.get(address)
        if known is None:
            machine_id = _uuid(address.id)
            if not isinstance(recorded.event, m.MachineRequested) or machine_id is None:
                return
            correlation = envelope.cause.correlation or envelope.id
            known = self.machines[address] = Known(address, machine_id, Machine(), correlation=correlation)
        if recorded.seq <= known.seq:
            return
        known.machine = machine_state.evolve(known.machine, recorded.event, recorded.recorded_at)
        known.seq = recorded.seq
        known.last_id = envelope.id
        if known.machine.is_ended:
            del self.machines[address]

    def _checkpoint(self, recorded: Recorded) -> None:
        address = recorded.envelope.address
        project = self.projects.setdefault(address.project, Project(address.project))
        checkpoint_id = _uuid(address.id)
        if checkpoint_id is None or recorded.seq <= project.tree_seqs.get(checkpoint_id, 0):
            return
        known = project.tree.get(checkpoint_id) or Checkpoint()
        known = checkpoints.evolve(known, recorded.event, recorded.recorded_at, recorded.seq)
        project.tree[checkpoint_id] = known
        project.tree_seqs[checkpoint_id] = recorded.seq
        _keep(project.unsettled, checkpoint_id, wanted=known.requested is not None and not known.is_settled)
        _keep(project.unverified, checkpoint_id, wanted=known.is_pending)

    def _project(self, recorded: Recorded) -> None:
        envelope = recorded.envelope
        project = self.projects.setdefault(envelope.address.project, Project(envelope.address.project))
        if recorded.seq <= project.seq:
            return
        project.seq = recorded.seq
        project.last_id = envelope.id
        project.correlation = envelope.cause.correlation or envelope.id
        match recorded.event:
            case p.ProjectCreated() as created:
                project.created = created
                project.policy = created.checkpoint_policy
                project.agent_policy = created.agent_policy
            case p.ProjectUpdated() as updated:
                project.policy = updated.checkpoint_policy or project.policy
                project.agent_policy = updated.agent_policy or project.agent_policy
                project.current = updated.current_checkpoint_id or project.current
            case p.ProjectAdvanced() as advanced:
                project.current = advanced.checkpoint_id
            case _:
                pass


def _keep(ids: set[UUID], each: UUID, *, wanted: bool) -> None:
    if wanted:
        ids.add(each)
    else:
        ids.discard(each)


def _uuid(text: str) -> UUID | None:
    """The id, or None for one that is none: the door refuses those, so nothing of ours follows from them."""
    try:
        return UUID(text)
    except ValueError:
        return None
