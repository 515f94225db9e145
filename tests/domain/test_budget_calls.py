"""Model calls inside what is held for their machines: at every prefix of any history nobody has more than there is."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from domain.budget import Account, Machine, Settle, Situation, account, decide
from domain.budget import machine as machines
from domain.budget.admission import lines
from domain.budget.calling import Outcome, Terms, draw, in_doubt, reserve, settle, void
from domain.budget.calls import Calls
from domain.budget.calls import evolve as evolve_calls
from domain.budget.envelope import Envelope
from domain.periods import TOTAL_START
from events.base import Event
from events.budget import BudgetAllocated, BudgetEvent, BudgetReserved
from events.call import CallCorrected, CallReserved, CallSettled, CallVoided, Price, Rates, Tokens
from events.ids import HUB, derived
from events.ledger import Call, Granted, NotGranted, Reserve, Void
from events.ledger import Settle as SettleAsk
from events.machine import MachineAdmitted, MachineEnded, MachineRequested
from events.words import BudgetPeriod, HoldMode, MachineType, OnExhausted, Resource, Unit
from events.words import Outcome as End

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
SHOP = "webshop"
ONE = Decimal(1)
RATES = Rates(
    price=Price(input=ONE, output=ONE, cache_read=ONE, cache_write_5m=ONE, cache_write_1h=ONE),
    multiplier_max=ONE,
    currency="CAD",
    cad=ONE,
    price_id="0" * 64,
)
"""A millionth CAD for each token."""
MILLION = 1_000_000


def who(number: int) -> UUID:
    return derived("test-machine", str(number))


def allocation(amount: str, resource: Resource = Resource.MONEY, **changes: object) -> BudgetAllocated:
    unit = {Resource.MONEY: Unit.CAD, Resource.TOKENS: Unit.TOKENS, Resource.API_CALLS: Unit.CALLS}[resource]
    base = {
        "resource": resource, "amount": amount, "unit": unit, "period": BudgetPeriod.TOTAL, "period_start": TOTAL_START,
    }  # fmt: skip
    return BudgetAllocated.model_validate({**base, **changes})


class World:
    """Accounts and machines as their events tell them; nothing else is remembered."""

    def __init__(self, hub: str, shop: str) -> None:
        self.events: dict[str, list[Event]] = defaultdict(list)
        self.machines: dict[UUID, list[Event]] = defaultdict(list)
        self.events[HUB].append(allocation(hub))
        self.events[SHOP].append(allocation(shop))

    def account(self, node: str) -> Account:
        state = Account()
        for event in self.events[node]:
            state = account.evolve(state, event)
        return state

    def calls(self, machine_id: UUID) -> Calls:
        calls = Calls()
        for event in self.events[str(machine_id)]:
            calls = evolve_calls(calls, event)
        return calls

    def machine(self, machine_id: UUID) -> Machine:
        state = Machine()
        for event in self.machines[machine_id]:
            state = machines.evolve(state, event)
        return state

    def admit(self, machine_id: UUID, money: str) -> None:
        """Hold so much for a machine on the whole path, as admission does; its own account is capped by it."""
        reservation_id = derived("reservation", str(machine_id))
        request = MachineRequested(goal="g", machine_type=MachineType.CLAUDE_API, budget=Decimal(money))
        self.machines[machine_id] += [request, MachineAdmitted(reservation_id=reservation_id, held={})]
        self.events[str(machine_id)].append(allocation(money))
        for node in (HUB, SHOP, str(machine_id)):
            wanted = {Resource.MONEY: Decimal(money)}
            held = lines(self.account(node), wanted, NOW)
            self.events[node].append(BudgetReserved(reservation_id=reservation_id, machine_id=machine_id, lines=held))

    def envelope(self, machine_id: UUID, aside: str = "0") -> Envelope:
        return Envelope(
            {node: self.account(node) for node in (HUB, SHOP, str(machine_id))},
            str(machine_id),
            derived("reservation", str(machine_id)),
            self.calls(machine_id),
            Decimal(aside),
        )

    def ask(self, machine_id: UUID, tokens: int, mode: HoldMode = HoldMode.STRICT, **terms: object) -> Outcome:
        call_id = derived("call", str(machine_id), str(len(self.events[str(machine_id)])))
        ask = Reserve(
            call_id=call_id,
            project=SHOP,
            machine_id=machine_id,
            epoch=1,
            provider="test",
            model="m",
            input_tokens_max=tokens // 2,
            output_tokens_max=tokens - tokens // 2,
            mode=mode,
        )
        outcome = reserve(ask, RATES, self.envelope(machine_id), Terms(NOW, Decimal(0), Decimal("0.05"), **terms))  # pyright: ignore[reportArgumentType] # terms by name
        self.put(outcome.accounts)
        self.machines[machine_id] += outcome.machine
        return outcome

    def put(self, said: Mapping[str, tuple[BudgetEvent, ...]]) -> None:
        for node, events in said.items():
            self.events[node] += events

    def settle(self, machine_id: UUID, call_id: UUID, tokens: int) -> None:
        said = settle(usage(machine_id, call_id, tokens), MachineType.CLAUDE_API, self.calls(machine_id))
        assert said is not None
        self.events[str(machine_id)] += said

    def finish(self, machine_id: UUID) -> None:
        situation = Situation(
            SHOP,
            machine_id,
            self.machine(machine_id),
            {node: self.account(node) for node in (HUB, SHOP, str(machine_id))},
            self.calls(machine_id),
        )
        self.put(decide(Settle(NOW), situation).accounts)

    def free(self, node: str) -> Decimal:
        book = self.account(node).books[Resource.MONEY, BudgetPeriod.TOTAL]
        assert book.allocated is not None
        return book.allocated - book.used - book.reserved


def usage(machine_id: UUID, call_id: UUID, tokens: int) -> SettleAsk:
    return SettleAsk(
        call_id=call_id,
        project=SHOP,
        machine_id=machine_id,
        epoch=1,
        tokens=Tokens(input=tokens // 2, output=tokens - tokens // 2),
        began_at=NOW,
        ended_at=NOW,
    )


def test_a_call_that_fits_is_granted_and_one_that_does_not_waits_for_the_open_ones() -> None:
    world = World("10", "10")
    world.admit(who(1), "1")
    assert isinstance(world.ask(who(1), 600_000).answer, Granted)
    second = world.ask(who(1), 600_000)
    assert second.answer is None
    assert not second.wants, "only its own calls stand in the way"


def test_what_running_the_machine_may_still_cost_is_kept_aside() -> None:
    world = World("10", "10")
    world.admit(who(1), "1")
    ask = Reserve(
        call_id=who(9), project=SHOP, machine_id=who(1), epoch=1, provider="t", model="m", input_tokens_max=400_000,
        output_tokens_max=400_000, mode=HoldMode.STRICT,
    )  # fmt: skip
    refused = reserve(ask, RATES, world.envelope(who(1), aside="0.3"), Terms(NOW, Decimal(0), Decimal(0)))
    assert isinstance(refused.answer, NotGranted)
    assert "0.3 CAD are kept aside" in refused.answer.message


def test_an_account_that_refuses_does_not_park() -> None:
    world = World("10", "10")
    world.admit(who(1), "1")
    world.events[str(who(1))].append(allocation("1", on_exhausted=OnExhausted.REFUSE))
    answer = world.ask(who(1), 2 * MILLION).answer
    assert isinstance(answer, NotGranted)
    assert answer.action is OnExhausted.REFUSE
    assert not world.machine(who(1)).holds


def test_what_a_parked_machine_is_told_to_type_is_as_much_as_is_missing_where_it_is() -> None:
    world = World("10", "10")
    world.admit(who(1), "1")
    answer = world.ask(who(1), 3 * MILLION + MILLION // 2).answer
    assert isinstance(answer, NotGranted)
    assert answer.message.endswith(f"autovibe budget top-up {SHOP} 3CAD --machine {who(1)}"), "2.5 are missing"
    world = World("10", "10")
    world.events[SHOP].append(allocation("1000", Resource.TOKENS))
    world.admit(who(1), "5")
    answer = world.ask(who(1), 3_500).answer
    assert isinstance(answer, NotGranted)
    assert answer.message.endswith(f"autovibe budget top-up {SHOP} 2500 --resource tokens")


def test_a_cap_of_calls_on_the_project_counts_each_call() -> None:
    world = World("10", "10")
    world.events[SHOP].append(allocation("2", Resource.API_CALLS))
    world.admit(who(1), "1")
    answers = [world.ask(who(1), 1_000).answer for _ in range(3)]
    assert [type(answer) for answer in answers[:2]] == [Granted, Granted]
    assert not isinstance(answers[2], Granted)


def test_an_elastic_call_goes_beyond_what_is_held_by_no_more_than_it_may_and_says_so() -> None:
    world = World("10", "10")
    world.admit(who(1), "1")
    outcome = world.ask(who(1), 1_040_000, HoldMode.ELASTIC)
    assert isinstance(outcome.answer, Granted)
    world.settle(who(1), outcome.answer.call_id, 1_040_000)
    exceeded = [event for event in world.events[str(who(1))] if event.type() == "BudgetExceeded"]
    assert len(exceeded) == 1
    assert not isinstance(world.ask(who(2), 1_000).answer, Granted), "a machine for which nothing is held gets nothing"


NOTHING: object = multiple()  # pyright: ignore[reportUnknownVariableType] # hypothesis says no type


class Ledger(RuleBasedStateMachine):
    """Machines on one project and hub, and anything that can happen to their calls; a crash forgets all but the events."""

    calls = Bundle("calls")
    lost = Bundle("lost")

    @initialize(
        hub=st.integers(2, 8), shop=st.integers(2, 8), budgets=st.lists(st.integers(1, 20), min_size=1, max_size=3)
    )
    def begin(self, hub: int, shop: int, budgets: list[int]) -> None:
        self.world = World(str(hub), str(shop))
        self.ids: list[UUID] = []
        self.over: set[UUID] = set()
        left = Decimal(min(hub, shop))
        for number, tenths in enumerate(budgets):
            amount = Decimal(tenths) / 10
            if amount <= left:
                left -= amount
                self.ids.append(who(number))
                self.world.admit(who(number), str(amount))

    def _one(self, number: int) -> UUID | None:
        return self.ids[number % len(self.ids)] if self.ids else None

    @rule(
        target=calls,
        number=st.integers(0, 2),
        percent=st.sampled_from([1, 30, 60, 100, 130]),
        mode=st.sampled_from([HoldMode.STRICT, HoldMode.CLAMPED]),
        patient=st.booleans(),
    )
    def reserve(self, number: int, percent: int, mode: HoldMode, *, patient: bool) -> object:
        machine_id = self._one(number)
        if machine_id is None or machine_id in self.over:
            return NOTHING
        budget = self.world.account(str(machine_id)).books[Resource.MONEY, BudgetPeriod.TOTAL].allocated or Decimal(0)
        tokens = max(2, int(budget * MILLION * percent / 100))
        answer = self.world.ask(machine_id, tokens, mode, out_of_time=not patient).answer
        return (machine_id, answer.call_id) if isinstance(answer, Granted) else NOTHING

    @rule(call=consumes(calls), share=st.sampled_from([0, 50, 100]), twice=st.booleans())
    def settle(self, call: tuple[UUID, UUID], share: int, *, twice: bool) -> None:
        machine_id, call_id = call
        bound = self.world.calls(machine_id).open[call_id].reserved.bound
        for _ in range(1 + twice):
            asked = usage(machine_id, call_id, 0).model_copy(
                update={"tokens": Tokens(input=bound.input * share // 100, output=bound.output * share // 100)}
            )
            said = settle(asked, None, self.world.calls(machine_id))
            assert said is not None
            self.world.events[str(machine_id)] += said

    @rule(call=consumes(calls))
    def void(self, call: tuple[UUID, UUID]) -> None:
        machine_id, call_id = call
        ask = Void(call_id=call_id, project=SHOP, machine_id=machine_id, epoch=1, reason="529")
        for _ in range(2):
            self.world.events[str(machine_id)] += void(ask, self.world.calls(machine_id))

    @rule(target=lost, call=consumes(calls))
    def lose_the_gateway(self, call: tuple[UUID, UUID]) -> tuple[UUID, UUID]:
        machine_id, call_id = call
        of = Call(call_id=call_id, project=SHOP, machine_id=machine_id, epoch=1)
        calls = self.world.calls(machine_id)
        said = settle(in_doubt(calls.open[call_id], of, NOW, NOW, "lost"), None, calls)
        assert said is not None
        assert isinstance(said[0], CallSettled)
        assert len(said) == 1, "the most it can have used is what was held"
        self.world.events[str(machine_id)] += said
        return call

    @rule(call=consumes(lost), share=st.sampled_from([0, 50, 100]), twice=st.booleans())
    def hear_of_the_gateway_again(self, call: tuple[UUID, UUID], share: int, *, twice: bool) -> None:
        machine_id, call_id = call
        doubtful = self.world.calls(machine_id).doubtful[call_id].reserved.bound
        tokens = Tokens(input=doubtful.input * share // 100, output=doubtful.output * share // 100)
        asked = usage(machine_id, call_id, 0).model_copy(update={"tokens": tokens})
        for number in range(1 + twice):
            said = settle(asked, None, self.world.calls(machine_id))
            assert said is not None
            assert [type(event) for event in said] == [CallCorrected] * (not number)
            self.world.events[str(machine_id)] += said
        assert self.world.calls(machine_id).resolved[call_id] == Decimal(tokens.total) / MILLION

    @rule(number=st.integers(0, 2))
    def draw(self, number: int) -> None:
        if machine_id := self._one(number):
            self.world.put(draw(self.world.envelope(machine_id), machine_id, NOW, SHOP))

    @rule(number=st.integers(0, 2))
    def end(self, number: int) -> None:
        if machine_id := self._one(number):
            self.over.add(machine_id)
            self.world.machines[machine_id].append(MachineEnded(epoch=1, outcome=End.SUCCEEDED))
            self.world.finish(machine_id)

    @rule(number=st.integers(0, 2))
    def settle_the_ended(self, number: int) -> None:
        machine_id = self._one(number)
        if machine_id is not None and machine_id in self.over:
            self.world.finish(machine_id)

    @invariant()
    def nobody_has_more_than_there_is(self) -> None:
        for node in (HUB, SHOP, *map(str, self.ids)):
            for book in self.world.account(node).all_books():
                assert book.reserved >= 0
                assert book.allocated is None or book.used + book.reserved <= book.allocated

    @invariant()
    def what_machines_have_is_what_the_project_and_the_hub_have(self) -> None:
        books = [self.world.account(str(each)).books[Resource.MONEY, BudgetPeriod.TOTAL] for each in self.ids]
        for node in (HUB, SHOP):
            book = self.world.account(node).books[Resource.MONEY, BudgetPeriod.TOTAL]
            assert book.used == sum((each.used for each in books), Decimal(0))
            assert book.reserved == sum((each.reserved for each in books), Decimal(0))

    @invariant()
    def every_call_is_resolved_at_most_once(self) -> None:
        for machine_id in self.ids:
            events = self.world.events[str(machine_id)]
            resolved = [event.call_id for event in events if isinstance(event, CallSettled | CallVoided)]
            reserved = [event.call_id for event in events if isinstance(event, CallReserved)]
            assert len(resolved) == len(set(resolved))
            assert set(resolved) <= set(reserved)

    def teardown(self) -> None:
        """All ends: then nothing is reserved anywhere, and what was used is what the calls cost."""
        if not hasattr(self, "world"):
            return
        for machine_id in self.ids:
            for call_id in tuple(self.world.calls(machine_id).open):
                self.lose_the_gateway((machine_id, call_id))
            self.world.machines[machine_id].append(MachineEnded(epoch=1, outcome=End.SUCCEEDED))
            self.world.finish(machine_id)
        for node in (HUB, SHOP, *map(str, self.ids)):
            assert all(book.reserved == 0 for book in self.world.account(node).all_books()), node
        spent = sum((self.world.calls(each).spent.get(Resource.MONEY, Decimal(0)) for each in self.ids), Decimal(0))
        used = self.world.account(HUB).books[Resource.MONEY, BudgetPeriod.TOTAL].used
        said = [event for each in self.ids for event in self.world.events[str(each)]]
        settled = sum((event.cost_cad for event in said if isinstance(event, CallSettled)), Decimal(0))
        assert spent <= used <= settled, (
            "an estimate that was drawn is not taken back above, what is corrected later is less"
        )


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
