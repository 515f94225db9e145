"""What holds of the ledger whatever happens, in whatever order, however often it is delivered."""

from collections import Counter
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from domain.budget import Account, Cancel, Command, Expire, Settle, account
from domain.budget.allocation import is_over
from domain.budget.machine import Standing
from events import address
from events.address import Address
from events.budget import (
    BudgetExhausted,
    BudgetReleased,
    BudgetReserved,
    BudgetSettled,
    BudgetThresholdCrossed,
)
from events.ids import HUB
from events.machine import MachineAdmitted, MachineEnded, MachineStopRequested, UsageRecorded
from events.words import BudgetPeriod, Outcome, Resource, Unit
from tests.budget.world import NOW, World, machine_id, request, wanted

SLUGS = ("bakery", "webshop")
MACHINES = [(machine_id(number), SLUGS[number % 2]) for number in range(12)]
amounts = st.decimals(0, 5, places=2)
members = st.sampled_from(MACHINES)


HELD = {Resource.MONEY, Resource.TIME, Resource.API_CALLS}


class Ledger(RuleBasedStateMachine):
    """Requests, stops, ends, top-ups, days and redeliveries in any order."""

    @initialize(machines_max=st.integers(1, 6))
    def start(self, machines_max: int) -> None:
        self.world = World(machines_max=machines_max)
        self.live: dict[Address, Account] = {}
        self.heard: Counter[Address] = Counter()

    def do(self, command: Command, who: UUID, slug: str) -> None:
        before = {node: self.world.account(node, slug) for node in (HUB, slug, str(who))}
        decision = self.world.do(command, who, slug)
        if any(isinstance(event, MachineAdmitted) for event in decision.machine):
            self.fits(who, slug)
        if isinstance(command, Settle):
            self.nothing_grew(before, slug)
        again = self.world.decide(command, who, slug)
        assert not again, f"{command} had a second effect: {again}"

    def fits(self, who: UUID, slug: str) -> None:
        """L1: at an admission nothing that it was held on holds more than it has."""
        for node in (HUB, slug, str(who)):
            state = self.world.account(node, slug)
            for book in state.books.values():
                asked = {
                    line.resource for hold in state.holds.values() for line in hold.lines if hold.machine_id == who
                }
                if book.allocated is not None and book.resource in asked and not is_over(book, self.world.now):
                    assert book.used + book.reserved <= book.allocated, (node, book)
        assert len(self.world.account(HUB).holds) <= self.world.machines_max

    def nothing_grew(self, before: dict[str, Account], slug: str) -> None:
        """L6: settling never takes more than was held of what was held; cores and memory are counted without a hold."""
        for node, old in before.items():
            new = self.world.account(node, slug)
            for key, book in old.books.items():
                if new.books[key].start == book.start and key[0] in HELD:
                    assert new.books[key].used + new.books[key].reserved <= book.used + book.reserved

    @rule(member=members, money=amounts, calls=st.none() | st.integers(0, 5), deadline_s=st.integers(1, 300))
    def ask(self, member: tuple[UUID, str], money: Decimal, calls: int | None, deadline_s: int) -> None:
        who, slug = member
        if self.world.machine(who, slug).standing is Standing.UNKNOWN:
            asked = request(str(money), calls=None if calls is None else str(calls), deadline_s=deadline_s)
            self.world.happen(address.machine(slug, who), asked)
        self.do(self.world.admit_command(who, slug), who, slug)

    @rule()
    def try_the_queue(self) -> None:
        for waiting in tuple(self.world.queue.waiting.values()):
            self.do(self.world.admit_command(waiting.machine_id, waiting.slug), waiting.machine_id, waiting.slug)

    @rule(member=members, share=st.decimals(0, 1, places=3), stop=st.booleans())
    def end(self, member: tuple[UUID, str], share: Decimal, *, stop: bool) -> None:
        who, slug = member
        machine = self.world.machine(who, slug)
        if machine.standing is Standing.ADMITTED:
            self.world.happen(address.machine(slug, who), *self.used(who, slug, share))
            outcome = Outcome.CANCELLED if stop else Outcome.SUCCEEDED
            self.world.happen(address.machine(slug, who), MachineEnded(epoch=1, outcome=outcome))
        self.do(Settle(self.world.now), who, slug)

    def used(self, who: UUID, slug: str, share: Decimal) -> list[UsageRecorded]:
        held = next(iter(self.world.account(str(who), slug).holds.values())).lines
        units = {Resource.MONEY: (Resource.CPU, Unit.CPU_HOURS), Resource.TIME: (Resource.TIME, Unit.MINUTES)}
        found: list[UsageRecorded] = []
        for line in held:
            amount = (line.amount * share).quantize(
                Decimal(1) if line.resource == Resource.API_CALLS else Decimal("1e-9")
            )
            resource, unit = units.get(line.resource, (Resource.API_CALLS, Unit.CALLS))
            found.append(
                UsageRecorded(
                    epoch=1,
                    resource_type=resource,
                    resource_subtype="vm_runtime",
                    amount=min(amount, line.amount),
                    unit=unit,
                    cost_cad=min(amount, line.amount) if line.resource == Resource.MONEY else Decimal(0),
                    period_start=NOW,
                    period_end=NOW,
                )
            )
        return found

    @rule(member=members)
    def stop(self, member: tuple[UUID, str]) -> None:
        who, slug = member
        if self.world.machine(who, slug).standing is not Standing.UNKNOWN:
            self.world.happen(address.machine(slug, who), MachineStopRequested())
        self.do(Cancel(), who, slug)

    @rule(member=members)
    def expire(self, member: tuple[UUID, str]) -> None:
        self.do(Expire(), *member)

    @rule(
        node=st.sampled_from((HUB, *SLUGS)),
        amount=st.integers(0, 15),
        resource=st.sampled_from([Resource.MONEY, Resource.TIME, Resource.API_CALLS]),
        period=st.sampled_from(BudgetPeriod),
    )
    def set_budget(self, node: str, amount: int, resource: Resource, period: BudgetPeriod) -> None:
        asked = wanted(str(amount), resource, period, time_zone="America/Toronto")
        assert self.world.set_budget(node, asked, slug=node)
        assert not self.world.set_budget(node, slug=node)

    @rule(hours=st.integers(1, 40))
    def pass_time(self, hours: int) -> None:
        self.world.now += timedelta(hours=hours)

    @invariant()
    def the_live_fold_is_the_replay(self) -> None:
        """L4."""
        for where, history in self.world.histories.items():
            if where.aggregate == "budget":
                state = self.live.get(where, Account())
                for event in history[self.heard[where] :]:
                    state = account.evolve(state, event)
                self.live[where], self.heard[where] = state, len(history)
                assert state == self.world.account(where.id, where.project)

    @invariant()
    def each_reservation_is_resolved_once_and_each_threshold_said_once(self) -> None:
        """L3."""
        for where, history in self.world.histories.items():
            if where.aggregate != "budget":
                continue
            said = Counter(
                [("reserved", event.reservation_id) for event in history if isinstance(event, BudgetReserved)]
                + [("resolved", e.reservation_id) for e in history if isinstance(e, BudgetSettled | BudgetReleased)]
                + [
                    (type(e), e.resource, e.period, e.period_start, getattr(e, "percent", None))
                    for e in history
                    if isinstance(e, BudgetThresholdCrossed | BudgetExhausted)
                ]
            )
            assert all(times == 1 for times in said.values()), said

    @invariant()
    def the_totals_of_the_machines_add_up_to_the_projects_and_those_to_the_hubs(self) -> None:
        """L2."""
        for resource in (Resource.MONEY, Resource.TIME, Resource.API_CALLS):
            projects = {slug: self.total(slug, slug, resource) for slug in SLUGS}
            for slug, total in projects.items():
                machines = [self.total(str(who), slug, resource) for who, of in MACHINES if of == slug]
                assert total == (sum(used for used, _ in machines), sum(reserved for _, reserved in machines))
            hub = self.total(HUB, HUB, resource)
            assert hub == (sum(used for used, _ in projects.values()), sum(r for _, r in projects.values()))

    def total(self, node: str, slug: str, resource: Resource) -> tuple[Decimal, Decimal]:
        book = self.world.account(node, slug).books.get((resource, BudgetPeriod.TOTAL))
        return (book.used, book.reserved) if book else (Decimal(0), Decimal(0))

    def teardown(self) -> None:
        """L7: when all have ended nothing is held any more."""
        if not hasattr(self, "world"):
            return
        for who, slug in MACHINES:
            self.end((who, slug), Decimal(1), stop=False)
        for slug in SLUGS:
            for node in (HUB, slug):
                state = self.world.account(node, slug)
                assert not state.holds
                assert all(book.reserved == 0 for book in state.all_books())


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
