"""Why a machine that is meant to run does not, and when each reason goes by itself."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from events.words import Hold

SPREAD_MAX_S = 30.0
SPREAD_SHARE = 0.1
"""Machines held until the same moment come back over a tenth of the time that they were held, at most 30 s: no storm."""
_GRAINS = 10_000


@dataclass(frozen=True, slots=True)
class Held:
    """One hold on a machine."""

    hold: Hold
    reason: str = ""
    until: datetime | None = None
    """When it goes by itself; None: when somebody or something lifts it."""
    since: datetime | None = None

    def released_at(self, seed: UUID | None) -> datetime | None:
        """When it is to be lifted: `until` and a little later, by a share of the spread that `seed` decides."""
        if self.until is None:
            return None
        held_s = (self.until - self.since).total_seconds() if self.since else 0.0
        spread_s = min(SPREAD_MAX_S, max(0.0, held_s) * SPREAD_SHARE)
        share = (seed.int % _GRAINS) / _GRAINS if seed else 0.0
        return self.until + timedelta(seconds=spread_s * share)


Holds = tuple[Held, ...]
"""At most one of a kind, in the order in which they came."""


def add(holds: Holds, held: Held) -> Holds:
    """Return the holds with this one; said again, it replaces what was said before."""
    if any(each.hold is held.hold for each in holds):
        return tuple(held if each.hold is held.hold else each for each in holds)
    return (*holds, held)


def lift(holds: Holds, lifted: Iterable[Hold]) -> Holds:
    gone = frozenset(lifted)
    return tuple(each for each in holds if each.hold not in gone)
