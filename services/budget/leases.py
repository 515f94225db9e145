"""Which calls are open, heard from the log, and until when their gateway has promised to be alive.

Leases are no events: they live here, every instance keeps its own, and a renewal is heard by all of them. An instance
that starts gives every open call a whole lease.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson
import structlog

from events import address
from events.address import Address
from events.call import CallReserved, CallSettled, CallVoided
from events.ledger import LEASE_S, Call
from services.kit.errors import KitError
from services.kit.log import Log
from services.kit.message import RawMessage

FILTERS = ("av.*.budget.>",)
_OF_CALLS = frozenset({CallReserved.type(), CallSettled.type(), CallVoided.type()})
_HEARD = _OF_CALLS | {"BudgetAllocated", "BudgetSettled", "BudgetReleased"}
"""All others of these subjects are not even parsed; most is said of calls."""
_DRAWN = frozenset({"BudgetDrawn", "BudgetSettled", "BudgetReleased"})
LOOK_S = 2.0
LOST = "the gateway has not said for {lease_s:g} s that the call is alive; counted is the most that it can have used"

_log: structlog.stdlib.BoundLogger = structlog.get_logger("budget")


@dataclass(slots=True)
class _Lease:
    call: Call
    since: datetime
    """When the call was reserved."""
    until: float
    """By the monotonic clock."""


class Leases:
    """The open calls of all machines."""

    def __init__(
        self,
        log: Log,
        expire: Callable[[Call, str, datetime], Awaitable[None]],
        budgets_moved: Callable[[], None],
        lease_s: float = LEASE_S,
    ) -> None:
        self._log = log
        self._expire = expire
        self._budgets_moved = budgets_moved
        self.lease_s = lease_s
        self._open: dict[UUID, _Lease] = {}
        self._position = 0
        self.undrawn: set[Address] = set()
        """Machines whose calls have used what was not drawn yet, as far as is heard."""

    def __len__(self) -> int:
        return len(self._open)

    def granted(self, call: Call, since: datetime) -> None:
        """A call that was just reserved: known at once, not only when the log is heard."""
        self._open.setdefault(call.call_id, _Lease(call, since, time.monotonic() + self.lease_s))

    def resolved(self, call_id: UUID) -> None:
        self._open.pop(call_id, None)

    def renew(self, calls: Iterable[Call]) -> tuple[UUID, ...]:
        """Give these another lease; returns those that are not open."""
        until = time.monotonic() + self.lease_s
        lost: list[UUID] = []
        for call in calls:
            lease = self._open.get(call.call_id)
            if lease is None:
                lost.append(call.call_id)
            else:
                lease.until = until
        return tuple(lost)

    async def catch_up(self) -> None:
        """Find all calls that are open, from the log's beginning to its present end."""
        async with aclosing(self._log.follow_raw(filters=FILTERS, stop_at_end=True)) as batches:
            async for batch in batches:
                for message in batch:
                    self._hear(message)

    async def listen(self) -> None:
        async with aclosing(self._log.follow_raw(self._position, FILTERS)) as batches:
            async for batch in batches:
                moved = [self._hear(message) for message in batch]
                if any(moved):
                    self._budgets_moved()

    async def serve(self) -> None:
        """Settle what nobody has renewed, for ever."""
        while True:
            await asyncio.sleep(min(LOOK_S, self.lease_s / 4))
            moment = time.monotonic()
            for call_id, lease in tuple(self._open.items()):
                if lease.until <= moment:
                    await self._end(call_id, lease)

    async def _end(self, call_id: UUID, lease: _Lease) -> None:
        try:
            await self._expire(lease.call, LOST.format(lease_s=self.lease_s), lease.since)
        except KitError as error:
            lease.until = time.monotonic() + LOOK_S
            _log.warning("lease.not_ended", call_id=str(call_id), reason=str(error), again_in_s=LOOK_S)
        else:
            _log.warning("lease.ended", call_id=str(call_id), machine_id=str(lease.call.machine_id))
            self.resolved(call_id)

    def _hear(self, message: RawMessage) -> bool:
        """Take note of an event; returns whether it may have made room for somebody."""
        self._position = message.seq
        _, project, _, machine_id, name = message.subject.split(".", 4)
        if name in _DRAWN:
            self.undrawn.discard(address.machine(project, machine_id))
        if name not in _HEARD:
            return False
        if name not in _OF_CALLS:
            return True
        said = orjson.loads(message.data)  # thousands a second, of which these two fields are wanted
        call_id = UUID(said["call_id"])
        if name != "CallReserved":
            self.resolved(call_id)
            if name == "CallSettled":
                self.undrawn.add(address.machine(project, machine_id))
        elif call_id not in self._open:
            call = Call(call_id=call_id, project=project, machine_id=UUID(machine_id), epoch=said["epoch"])
            self.granted(call, message.recorded_at)
        return False
