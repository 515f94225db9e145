"""What every decision over a machine and its accounts is made of: the commands, the situation, the outcome."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from domain.budget.account import Account
from domain.budget.calls import Calls
from domain.budget.machine import Machine
from domain.budget.queue import Waiting
from domain.tariff import Tariff
from events.budget import BudgetEvent
from events.ids import HUB, derived
from events.machine import MachineEvent


@dataclass(frozen=True, slots=True)
class Admit:
    """Answer a request, or try a queued one again."""

    now: datetime
    tariff: Tariff
    machines_max: int
    """How many machines may hold a reservation at once, over all projects."""
    ahead: Waiting | None = None
    """Who stands before it in the line."""
    queue_full: bool = False
    """As many machines of its project wait as may: it cannot be put behind them."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a machine that somebody wants stopped before it was admitted."""


@dataclass(frozen=True, slots=True)
class Expire:
    """End a machine that has been queued for too long."""


@dataclass(frozen=True, slots=True)
class Settle:
    """Resolve the reservation of a machine that has ended, with what it used."""

    now: datetime


@dataclass(frozen=True, slots=True)
class Readmit:
    """Let a parked machine that nothing but a budget holds up run again, if there is room for what it goes on with."""

    now: datetime
    tariff: Tariff
    machines_max: int


Command = Admit | Cancel | Expire | Settle | Readmit


def _accounts() -> Mapping[str, Account]:
    return {}


@dataclass(frozen=True, slots=True)
class Situation:
    """A machine and the accounts above it."""

    slug: str
    machine_id: UUID
    machine: Machine
    accounts: Mapping[str, Account] = field(default_factory=_accounts)
    """By node, in the order of `path`; one that is missing is empty."""
    calls: Calls = field(default_factory=Calls)
    """The machine's model calls."""

    @property
    def path(self) -> tuple[str, ...]:
        """The nodes that must hold what it asks: hub, project, machine; a machine of `_hub` has no project above it."""
        return tuple(dict.fromkeys((HUB, self.slug, self.node)))

    @property
    def node(self) -> str:
        """The machine's own account."""
        return str(self.machine_id)

    def owner(self, node: str) -> str:
        """The project in whose part of the log this node's account is."""
        return HUB if node == HUB else self.slug

    def account(self, node: str) -> Account:
        return self.accounts.get(node, Account())


def _said() -> Mapping[str, tuple[BudgetEvent, ...]]:
    return {}


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be appended, all of it or nothing."""

    machine: tuple[MachineEvent, ...] = ()
    accounts: Mapping[str, tuple[BudgetEvent, ...]] = field(default_factory=_said)
    """By node; only nodes to which something happened."""

    def __bool__(self) -> bool:
        return bool(self.machine or self.accounts)


NOTHING = Decision()


def reservation_of(machine_id: UUID, admissions: int = 0) -> UUID:
    """Return the id of a machine's reservation after so many: the same whoever decides, so nobody makes a second one."""
    name = (str(machine_id), str(admissions)) if admissions else (str(machine_id),)
    return derived("reservation", *name)


def nonempty(accounts: Mapping[str, tuple[BudgetEvent, ...]]) -> Mapping[str, tuple[BudgetEvent, ...]]:
    return {node: said for node, said in accounts.items() if said}
