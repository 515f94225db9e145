"""The accounts of a machine's path and its calls, as the log has them: kept between decisions, read again when in doubt.

A decision on what is kept is safe whatever has happened meanwhile: the log refuses it when an account that it writes to
has moved on. What is only looked at (caps above) is at most `FRESH_S` old, and read again before anybody is refused.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from domain.budget import Account, Machine, account, machine
from domain.budget.calls import Calls
from domain.budget.calls import evolve as evolve_calls
from domain.budget.envelope import Envelope
from domain.budget.readmission import aside_cad
from domain.tariff import Tariff
from events import address
from events.address import Address
from events.base import Event
from events.budget import BudgetEvent
from events.ids import HUB
from events.machine import MachineEvent
from services.kit.log import Appended, Log, Write
from services.kit.repository import Loaded, Repository

FRESH_S = 1.0
KEPT_MAX = 10_000
"""Machines whose place in the tree is remembered, which never changes."""


@dataclass(frozen=True, slots=True)
class Purse:
    """An account, and of a machine's own the calls that are paid out of it."""

    account: Account = field(default_factory=Account)
    calls: Calls = field(default_factory=Calls)


def evolve(purse: Purse, event: Event) -> Purse:
    return Purse(account.evolve(purse.account, event), evolve_calls(purse.calls, event))


@dataclass(frozen=True, slots=True)
class Path:
    """A machine and the purses above it, by node from the hub down."""

    where: Address
    machine: Machine
    machine_seq: int
    purses: Mapping[str, Loaded[Purse]]

    @property
    def own(self) -> Purse:
        return self.purses[self.where.id].state

    def envelope(self, tariff: Tariff) -> Envelope:
        return Envelope(
            {node: loaded.state.account for node, loaded in self.purses.items()},
            self.where.id,
            self.machine.reservation_id or UUID(int=0),
            self.own.calls,
            aside_cad(self.machine, tariff),
        )


class Purses:
    """Reads and keeps paths. Everything here may be called for many machines at once."""

    def __init__(self, log: Log, now: Callable[[], datetime]) -> None:
        self._log = log
        self.now = now
        self._purses = Repository[Purse](log, Purse, evolve)
        self._machines = Repository[Machine](log, Machine, machine.evolve)
        self._read_at: dict[Address, float] = {}

    async def path(self, where: Address, *, epoch: int | None = None, fresh: bool = False) -> Path:
        """Return the path; `fresh`, or an epoch that is not the one known: as the log has it now."""
        moment = time.monotonic()
        if not fresh and moment - self._read_at.get(where, -FRESH_S) < FRESH_S:
            known = self._known(where)
            if known is not None and epoch in {None, known.machine.epoch}:
                return known
        found, purses = await asyncio.gather(
            self._machines.get(where),
            asyncio.gather(*(self._purses.get(each) for each in _addresses(where))),
        )
        self._read_at[where] = moment
        return _path(where, found, purses)

    def forget(self, where: Address) -> None:
        self._read_at.pop(where, None)

    def _known(self, where: Address) -> Path | None:
        """Return the path with what any machine's decision last learned of the accounts above."""
        found = self._machines.kept(where)
        purses = [kept for each in _addresses(where) if (kept := self._purses.kept(each)) is not None]
        if found is None or len(purses) < len(_addresses(where)):
            return None
        return _path(where, found, purses)

    def writes(
        self, path: Path, accounts: Mapping[str, Sequence[BudgetEvent]], machine_events: Sequence[MachineEvent]
    ) -> list[Write]:
        """Return one write per aggregate that something happens to, the machine's own account last."""
        of = dict(zip(_nodes(path.where), _addresses(path.where), strict=True))
        writes = [Write(of[node], path.purses[node].seq, tuple(accounts[node])) for node in of if accounts.get(node)]
        if machine_events:
            writes.insert(0, Write(path.where, path.machine_seq, tuple(machine_events)))
        return writes

    def took(self, path: Path, writes: Sequence[Write], appended: Appended) -> None:
        """Keep what was appended, so that the next decision needs no reading; the purses of `path` have it in them."""
        seq = appended.seq - sum(len(write.events) for write in writes)
        for write in writes:
            seq += len(write.events)
            if write.address in _addresses(path.where):
                self._purses.keep(write.address, Loaded(path.purses[write.address.id].state, seq))
            else:
                state = path.machine
                for event in write.events:
                    state = machine.evolve(state, event)
                self._machines.keep(write.address, Loaded(state, seq))


def _path(where: Address, found: Loaded[Machine], purses: Sequence[Loaded[Purse]]) -> Path:
    return Path(where, found.state, found.seq, dict(zip(_nodes(where), purses, strict=True)))


@lru_cache(KEPT_MAX)
def _nodes(where: Address) -> tuple[str, ...]:
    return tuple(dict.fromkeys((HUB, where.project, where.id)))


@lru_cache(KEPT_MAX)
def _addresses(where: Address) -> tuple[Address, ...]:
    return tuple(address.budget(HUB if node == HUB else where.project, node) for node in _nodes(where))
