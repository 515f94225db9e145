"""Aggregates as folds of their events, kept between calls; and the loop of load, decide, append."""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from events.address import Address
from events.base import Event
from events.envelope import Cause
from services.kit.errors import Conflict, Transient
from services.kit.log import APPEND_DEADLINE_S, Appended, Log, Write

S = TypeVar("S")

CONFLICTS_MAX = 20


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """The state of an aggregate and the seq of its last event, which is what an append must expect."""

    state: S
    seq: int


@dataclass(slots=True)
class _Reads(Generic[S]):
    """The reads of one aggregate while somebody waits for one; they go one after the other."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    begun: int = 0
    newest: tuple[int, Loaded[S]] | None = None
    """The number of the read that ended last, and what it found."""


class Repository(Generic[S]):
    """Folds, newest used kept; each `get` reads only what came since."""

    def __init__(self, log: Log, initial: Callable[[], S], evolve: Callable[[S, Event], S], size: int = 10_000) -> None:
        self._log = log
        self._initial = initial
        self._evolve = evolve
        self._size = size
        self._kept: OrderedDict[Address, Loaded[S]] = OrderedDict()
        self._reads: dict[Address, _Reads[S]] = {}

    async def get(self, address: Address) -> Loaded[S]:
        """Return the state as the log has it now; those who ask while a read is on its way share the next one."""
        reads = self._reads.setdefault(address, _Reads())
        begun = reads.begun
        reads.waiting += 1
        try:
            async with reads.lock:
                if reads.newest is not None and reads.newest[0] > begun:
                    return reads.newest[1]
                reads.begun += 1
                number = reads.begun
                loaded = await self._read(address)
                reads.newest = number, loaded
                return loaded
        finally:
            reads.waiting -= 1
            if not reads.waiting:
                del self._reads[address]

    async def _read(self, address: Address) -> Loaded[S]:
        known = self._kept.get(address) or Loaded(self._initial(), 0)
        tail = await self._log.load(address, after=known.seq)
        state = known.state
        for recorded in tail.events:
            state = self._evolve(state, recorded.event)
        loaded = Loaded(state, tail.seq)
        self.keep(address, loaded)
        return loaded

    def kept(self, address: Address) -> Loaded[S] | None:
        """Return the state as it was last known, nothing read; None: it is not known."""
        return self._kept.get(address)

    def keep(self, address: Address, loaded: Loaded[S]) -> None:
        """Take a state over from who has just appended to the aggregate; the log accepted it, so nothing lies between."""
        newest = self._kept.get(address)
        if newest is None or newest.seq <= loaded.seq:
            self._kept[address] = loaded
            self._kept.move_to_end(address)
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)


async def decide_and_append(
    log: Log,
    decide: Callable[[], Awaitable[Sequence[Write]]],
    *,
    cause: Cause,
    deadline_s: float = APPEND_DEADLINE_S,
    conflicts_max: int = CONFLICTS_MAX,
) -> Appended | None:
    """Load and decide (that is `decide`), append, and do it again when an aggregate moved on meanwhile.

    Returns:
        Where it was appended; None when there was nothing to say.

    Raises:
        Transient: Still conflicting after `conflicts_max` rounds, or as `Log.append`.
        Refused: As `Log.append`.
    """
    for round_number in range(conflicts_max):
        writes = [write for write in await decide() if write.events]
        if not writes:
            return None
        try:
            return await log.append(*writes, cause=cause, deadline_s=deadline_s)
        except Conflict:
            await asyncio.sleep(random.uniform(0, 0.002 * 2 ** min(round_number, 7)))  # noqa: S311 # jitter
    raise Transient(f"still in conflict after {conflicts_max} rounds")
