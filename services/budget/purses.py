"""The accounts of a machine's path and its calls, as the log has them: kept between decisions, read again when in doubt.

A decision on what is kept is safe whatever has happened meanwhile: the log refuses it when an account that it writes to
has moved on, and every call is written to the machine's own. What is only looked at (whether the machine runs, caps above)
is at most `FRESH_S` old, and all of it is read again before anybody is refused.
"""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeVar
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
from events.ids import HUB
from services.kit.log import Appended, Log, Write
from services.kit.repository import Loaded, Repository

S = TypeVar("S")

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

    @property
    def accounts(self) -> dict[Address, Loaded[Purse]]:
        """The purses by address, an account above before those under it."""
        return dict(zip(_addresses(self.where), self.purses.values(), strict=True))

    def over(self, known: Mapping[Address, Loaded[Purse]]) -> "Path":
        """Return it with these in place of what it has of the same accounts."""
        accounts = {**self.accounts, **{each: known[each] for each in _addresses(self.where) if each in known}}
        return replace(self, purses=dict(zip(_nodes(self.where), accounts.values(), strict=True)))

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

    def __init__(self, log: Log) -> None:
        self._purses = Repository[Purse](log, Purse, evolve)
        self._machines = Repository[Machine](log, Machine, machine.evolve)
        self._read_at: dict[Address, float] = {}

    async def path(self, where: Address, *, epoch: int | None = None, fresh: bool = False) -> Path:
        """Return the path; `fresh`, or an epoch that is not the one known: as the log has it now."""
        since = math.inf if fresh else time.monotonic() - FRESH_S
        known = self._known(where, since)
        if known is not None and epoch in {None, known.machine.epoch}:
            return known
        if known is not None:
            since = math.inf
        found, purses = await asyncio.gather(
            self._newest(self._machines, where, since),
            asyncio.gather(*(self._newest(self._purses, each, since) for each in _addresses(where))),
        )
        return _path(where, found, purses)

    def forget(self, where: Address) -> None:
        """Read the machine and its own account again before they are believed."""
        self._read_at.pop(where, None)
        self._read_at.pop(_addresses(where)[-1], None)

    def _known(self, where: Address, since: float) -> Path | None:
        """Return the path with what any machine's decision last learned of the accounts above, if that is new enough."""
        *above, own = _addresses(where)
        if own not in self._read_at or any(self._read_at.get(each, 0.0) < since for each in (where, *above)):
            return None
        found = self._machines.kept(where)
        purses = [kept for each in (*above, own) if (kept := self._purses.kept(each)) is not None]
        if found is None or len(purses) <= len(above):
            return None
        return _path(where, found, purses)

    async def _newest(self, repository: Repository[S], each: Address, since: float) -> Loaded[S]:
        known, moment = repository.kept(each), time.monotonic()
        if known is not None and self._read_at.get(each, 0.0) >= since:
            return known
        loaded = await repository.get(each)
        self._read_at[each] = moment
        return loaded

    def took(self, paths: Sequence[Path], writes: Sequence[Write], appended: Appended) -> None:
        """Keep what was appended, so that the next decision needs no reading; the paths, in order, have it in them."""
        machines = {path.where: path.machine for path in paths}
        purses = {each: loaded.state for path in paths for each, loaded in path.accounts.items()}
        moment, seq = time.monotonic(), appended.seq - sum(len(write.events) for write in writes)
        for write in writes:
            seq += len(write.events)
            self._read_at[write.address] = moment
            if write.address in purses:
                self._purses.keep(write.address, Loaded(purses[write.address], seq))
            else:
                self._machines.keep(write.address, Loaded(machines[write.address], seq))


def _path(where: Address, found: Loaded[Machine], purses: Sequence[Loaded[Purse]]) -> Path:
    return Path(where, found.state, found.seq, dict(zip(_nodes(where), purses, strict=True)))


@lru_cache(KEPT_MAX)
def _nodes(where: Address) -> tuple[str, ...]:
    return tuple(dict.fromkeys((HUB, where.project, where.id)))


@lru_cache(KEPT_MAX)
def _addresses(where: Address) -> tuple[Address, ...]:
    return tuple(address.budget(HUB if node == HUB else where.project, node) for node in _nodes(where))
