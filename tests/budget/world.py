"""A log in memory for the decider: histories by aggregate, folded anew for every decision."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from domain.budget import (
    Account,
    Admit,
    Command,
    Decision,
    Machine,
    Settle,
    Situation,
    account,
    decide,
    machine,
    opened,
)
from domain.budget.machine import asks
from domain.budget.queue import Queue, Waiting
from domain.tariff import Tariff
from events import address
from events.address import Address
from events.base import Event
from events.budget import UNIT_OF, BudgetAllocated, BudgetEvent, BudgetRequested
from events.ids import HUB, derived
from events.machine import Limits, MachineAdmitted, MachineEvent, MachineQueued, MachineRequested
from events.words import BudgetPeriod, Hold, MachineType, Resource, Unit

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
SHOP = "webshop"
FREE = Tariff(Decimal(0), Decimal(0))
"""Compute costs nothing, so that the only money is what a request names."""


def machine_id(number: int) -> UUID:
    return derived("test-machine", str(number))


def request(
    money: str | None = "1", *, calls: str | None = None, deadline_s: int = 60, limits: Limits | None = None
) -> MachineRequested:
    return MachineRequested(
        goal="make test",
        machine_type=MachineType.SHELL,
        budget=None if money is None else Decimal(money),
        calls=None if calls is None else Decimal(calls),
        limits=limits or Limits(deadline_s=deadline_s),
    )


def wanted(
    amount: str,
    resource: Resource = Resource.MONEY,
    period: BudgetPeriod = BudgetPeriod.TOTAL,
    *,
    unit: Unit | None = None,
    time_zone: str = "UTC",
    auto_reset: bool = True,
) -> BudgetRequested:
    return BudgetRequested.model_validate(
        {
            "resource": resource,
            "amount": amount,
            "unit": unit or UNIT_OF[resource],
            "period": period,
            "time_zone": time_zone,
            "auto_reset": auto_reset,
        }
    )


def _histories() -> defaultdict[Address, list[Event]]:
    return defaultdict(list)


@dataclass
class World:
    """Everything that has happened, and the budget's rules."""

    tariff: Tariff = FREE
    machines_max: int = 1_000
    queued_max: int = 1_000
    now: datetime = NOW
    histories: defaultdict[Address, list[Event]] = field(default_factory=_histories)
    queue: Queue = field(default_factory=lambda: Queue(1_000))
    """Heard with the world; how many machines may hold something is not one of its scarce things."""
    folded: dict[Address, tuple[int, Account]] = field(default_factory=dict[Address, tuple[int, Account]])
    """Accounts as far as they were asked for, and of how many events: folding anew each time took most of a test."""

    def happen(self, where: Address, *events: Event) -> None:
        for event in events:
            self.histories[where].append(event)
            if where.aggregate != "budget" or where.id == HUB:
                self.queue.hear(where, event, self.now)

    def account(self, node: str, slug: str = SHOP) -> Account:
        where = address.budget(HUB if node == HUB else slug, node)
        count, state = self.folded.get(where, (0, Account()))
        history = self.histories[where]
        for event in history[count:]:
            state = account.evolve(state, event)
        self.folded[where] = len(history), state
        return state

    def machine(self, who: UUID, slug: str = SHOP) -> Machine:
        state = Machine()
        for event in self.histories[address.machine(slug, who)]:
            state = machine.evolve(state, event)
        return state

    def situation(self, who: UUID, slug: str = SHOP) -> Situation:
        nodes = (HUB, slug, str(who))
        return Situation(slug, who, self.machine(who, slug), {node: self.account(node, slug) for node in nodes})

    def decide(self, command: Command, who: UUID, slug: str = SHOP) -> Decision:
        return decide(command, self.situation(who, slug))

    def do(self, command: Command, who: UUID, slug: str = SHOP) -> Decision:
        """Decide, and append what was decided."""
        decision = self.decide(command, who, slug)
        self.happen(address.machine(slug, who), *decision.machine)
        for node, said in decision.accounts.items():
            self.happen(address.budget(HUB if node == HUB else slug, node), *said)
        return decision

    def admit_command(self, who: UUID, slug: str = SHOP) -> Admit:
        return Admit(
            self.now,
            self.tariff,
            self.machines_max,
            self.ahead_of(who, slug),
            queue_full=self.queue.count(slug) >= self.queued_max,
        )

    def ahead_of(self, who: UUID, slug: str = SHOP) -> Waiting | None:
        """Return who stands before a machine, queued or just requested."""
        known = self.queue.waiting.get(str(who))
        if known is None:
            asked = self.machine(who, slug).request
            comes = MachineQueued(
                hold=Hold.BUDGET,
                node=HUB,
                wants=dict(asks(asked, self.tariff)) if asked else {},
                greediness=asked.greediness if asked else None,
            )
            known = Waiting(slug, who, comes, self.now)
        return self.queue.ahead_of(known, self.now)

    def serve(self) -> list[tuple[str, MachineEvent]]:
        """Try everybody who waits until nobody goes any more. Returns who was admitted, in order."""
        went: list[tuple[str, MachineEvent]] = []
        while True:
            tried = [(each, self.admit(each.machine_id, each.slug)) for each in self.queue.firsts(self.now)]
            if not (gone := [(each.slug, said) for each, said in tried if isinstance(said, MachineAdmitted)]):
                return went
            went += gone

    def admit(self, who: UUID, slug: str = SHOP) -> MachineEvent | None:
        """Return what is said of the machine; None when nothing is."""
        said = self.do(self.admit_command(who, slug), who, slug).machine
        return said[0] if said else None

    def ask(self, who: UUID, asked: MachineRequested, slug: str = SHOP) -> MachineEvent | None:
        self.happen(address.machine(slug, who), asked)
        return self.admit(who, slug)

    def settle(self, who: UUID, slug: str = SHOP) -> Decision:
        return self.do(Settle(self.now), who, slug)

    def set_budget(self, node: str, *asked: BudgetRequested, slug: str = SHOP) -> tuple[BudgetEvent, ...]:
        where = address.budget(HUB if node == HUB else slug, node)
        self.happen(where, *asked)
        said = opened(self.account(node, slug), where.project, node, self.now)
        self.happen(where, *said)
        return said

    def allocations(self, node: str, slug: str = SHOP) -> list[BudgetAllocated]:
        where = address.budget(HUB if node == HUB else slug, node)
        return [event for event in self.histories[where] if isinstance(event, BudgetAllocated)]
