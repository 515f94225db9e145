"""Reservations live as long as somebody renews them: all open calls of this gateway, together, thrice in a lease."""

import asyncio
from contextlib import suppress
from uuid import UUID

import structlog

from events.ledger import LEASE_S, RENEW_S, Call, Renew
from services.kit.ledger import CallLedger, LedgerError

CALLS_PER_REQUEST = 500
_log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway")


class Leases:
    """The reservations that this process is answerable for."""

    def __init__(self, ledger: CallLedger) -> None:
        self._ledger = ledger
        self._every_s = RENEW_S
        self._sooner = asyncio.Event()
        self._calls: dict[UUID, Call] = {}

    def hold(self, call: Call, lease_s: float = LEASE_S) -> None:
        if lease_s * RENEW_S / LEASE_S < self._every_s:
            self._every_s = lease_s * RENEW_S / LEASE_S
            self._sooner.set()
        self._calls[call.call_id] = Call(
            call_id=call.call_id, project=call.project, machine_id=call.machine_id, epoch=call.epoch
        )

    def release(self, call_id: UUID) -> None:
        self._calls.pop(call_id, None)

    def __len__(self) -> int:
        return len(self._calls)

    async def run(self) -> None:
        """Renew for ever; what could not be renewed is tried again at the next turn, before the lease has ended."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._sooner.wait()
            self._sooner.clear()
            calls = tuple(self._calls.values())
            for first in range(0, len(calls), CALLS_PER_REQUEST):
                try:
                    renewed = await self._ledger.renew(Renew(calls=calls[first : first + CALLS_PER_REQUEST]))
                except LedgerError as error:
                    _log.warning("lease.not_renewed", calls=len(calls), reason=str(error))
                    continue
                for call_id in renewed.lost:
                    _log.warning("lease.lost", call_id=str(call_id))
                    self._calls.pop(call_id, None)
