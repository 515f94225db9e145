"""Who waits: the machines that are queued, over all projects, in the order in which they were first queued.

Strict first come, first served, wherever the line forms: while a machine waits for room on the hub's account, nobody
who came later gets that room; while one waits for its project's, nobody of the project does. So a large request is not
starved by small ones; the price is that it holds up small ones that would fit. Shares by greediness are none of this.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from events.address import Address
from events.base import Event
from events.ids import HUB
from events.machine import MachineAdmitted, MachineDenied, MachineEnded, MachineQueued


@dataclass(frozen=True, slots=True)
class Waiting:
    """One queued machine."""

    slug: str
    machine_id: UUID
    queued: MachineQueued
    """What stood in its way when it was last tried."""


def _line() -> Mapping[str, Waiting]:
    return {}


@dataclass(frozen=True, slots=True)
class Queue:
    """The line, by machine id; the mapping keeps the order in which its members first came."""

    waiting: Mapping[str, Waiting] = field(default_factory=_line)


def evolve(queue: Queue, address: Address, event: Event) -> Queue:
    """Fold one event of any machine, in the log's order; what is not about waiting leaves the line as it is."""
    match event:
        case MachineQueued():
            return Queue({**queue.waiting, address.id: Waiting(address.project, UUID(address.id), event)})
        case MachineAdmitted() | MachineDenied() | MachineEnded() if address.id in queue.waiting:
            return Queue({other: waiting for other, waiting in queue.waiting.items() if other != address.id})
        case _:
            return queue


def ahead_of(queue: Queue, slug: str, machine_id: UUID) -> Waiting | None:
    """Return who stands before this machine in its line: one of its own project first, else one at the hub."""
    on_the_hub = None
    for waiting in queue.waiting.values():
        if waiting.machine_id == machine_id:
            break
        if waiting.slug == slug:
            return waiting
        if on_the_hub is None and waiting.queued.node == HUB:
            on_the_hub = waiting
    return on_the_hub


def behind(ahead: Waiting, slug: str) -> MachineQueued:
    """Return what is said of a machine that waits because another one stands before it.

    In the line of its project it names the project, so that it never holds up others at the hub in its own right.
    """
    node = slug if ahead.slug == slug else HUB
    return MachineQueued(hold=ahead.queued.hold, node=node, resource=ahead.queued.resource)
