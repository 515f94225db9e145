"""Who waits: the machines that are queued, over all projects, in the order in which they were first queued.

Strict first come, first served, wherever the line forms: while a machine waits for room on the hub's account, nobody
who came later gets that room; while one waits for its project's, nobody of the project does. So a large request is not
starved by small ones; the price is that it holds up small ones that would fit. Shares by greediness are none of this.
"""

from dataclasses import dataclass
from heapq import heappop, heappush
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


class Queue:
    """The line, folded in place: every question is answered without walking it, however many wait."""

    def __init__(self) -> None:
        self.waiting: dict[str, Waiting] = {}
        """By machine id, in the order in which they first came."""
        self._arrivals: dict[str, int] = {}
        self._arrived = 0
        self._of_project: dict[str, dict[str, None]] = {}
        self._at_hub: list[tuple[int, str]] = []
        """A heap by arrival, where whoever has gone or no longer waits there stays until it comes up."""
        self._in_heap: set[tuple[int, str]] = set()

    def hear(self, address: Address, event: Event) -> None:
        """Fold one event of any machine, in the log's order; what is not about waiting leaves the line as it is."""
        match event:
            case MachineQueued():
                self._put(Waiting(address.project, UUID(address.id), event), address.id)
            case MachineAdmitted() | MachineDenied() | MachineEnded() if address.id in self.waiting:
                self._take(address.id)
            case _:
                pass

    def ahead_of(self, slug: str, machine_id: UUID) -> Waiting | None:
        """Return who stands before this machine in its line: one of its own project first, else one at the hub."""
        who = str(machine_id)
        first = next(iter(self._of_project.get(slug, ())), who)
        if first != who:
            return self.waiting[first]
        at_hub = self._first_at_hub()
        if at_hub is None or at_hub[0] >= self._arrivals.get(who, self._arrived):
            return None
        return self.waiting[at_hub[1]]

    def count(self, slug: str) -> int:
        """Return how many machines of a project wait."""
        return len(self._of_project.get(slug, ()))

    def _put(self, waiting: Waiting, who: str) -> None:
        self.waiting[who] = waiting
        if who not in self._arrivals:
            self._arrivals[who] = self._arrived
            self._arrived += 1
            self._of_project.setdefault(waiting.slug, {})[who] = None
        place = self._arrivals[who], who
        if waiting.queued.node == HUB and place not in self._in_heap:
            self._in_heap.add(place)
            heappush(self._at_hub, place)

    def _take(self, who: str) -> None:
        slug = self.waiting.pop(who).slug
        del self._arrivals[who]
        of_project = self._of_project[slug]
        del of_project[who]
        if not of_project:
            del self._of_project[slug]

    def _first_at_hub(self) -> tuple[int, str] | None:
        while self._at_hub:
            place = self._at_hub[0]
            arrival, who = place
            if self._arrivals.get(who) == arrival and self.waiting[who].queued.node == HUB:
                return place
            self._in_heap.discard(heappop(self._at_hub))
        return None


def behind(ahead: Waiting, slug: str) -> MachineQueued:
    """Return what is said of a machine that waits because another one stands before it.

    In the line of its project it names the project, so that it never holds up others at the hub in its own right.
    """
    node = slug if ahead.slug == slug else HUB
    return MachineQueued(hold=ahead.queued.hold, node=node, resource=ahead.queued.resource)
