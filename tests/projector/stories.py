"""Lives as they happen: a project, its genesis, machines that are admitted, run, are checkpointed, settle and end."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from events import address
from events.address import Address
from events.base import Event
from events.budget import BudgetAllocated, BudgetDrawn, BudgetExtended, BudgetReserved, BudgetSettled, Line, Lines
from events.call import CallCorrected, CallSettled, Tokens
from events.checkpoint import CheckpointTaken, CheckpointVerified
from events.envelope import Cause
from events.ids import HUB, derived
from events.machine import (
    MachineAdmitted,
    MachineBecameReady,
    MachineBooted,
    MachineEnded,
    MachineProgressed,
    MachineProvisioningStarted,
    MachineRequested,
    MachineSealingStarted,
    MachineWorkStarted,
    UsageRecorded,
)
from events.project import ProjectAdvanced, ProjectCreated
from events.words import (
    BudgetPeriod,
    CheckpointType,
    CreationContext,
    MachineType,
    Outcome,
    Resource,
    Unit,
)
from tests.projector.histories import Said

MONTH = datetime(2026, 1, 1, tzinfo=UTC)
SNAPSHOT = "5" * 64
CAUSE = Cause("spawner", UUID(int=1), UUID(int=2), "as told")


def project(slug: str) -> Iterator[Said]:
    genesis = derived("genesis", slug)
    yield _said(address.project(slug), ProjectCreated(description="A shop", metadata={"team": "a"}))
    yield _said(address.checkpoint(slug, genesis), _taken(CheckpointType.GENESIS, CreationContext.INITIAL_STATE))
    yield _said(address.project(slug), ProjectAdvanced(checkpoint_id=genesis))
    for slug_, node in ((HUB, HUB), (slug, slug)):
        allocated = BudgetAllocated(
            resource=Resource.MONEY, amount=Decimal(100), unit=Unit.CAD, period=BudgetPeriod.MONTHLY, period_start=MONTH
        )
        yield _said(address.budget(slug_, node), allocated)


def call(call_id: UUID, machine_id: UUID, reservation_id: UUID) -> Iterator[tuple[str, Event]]:
    """Yield a model call that extends its machine's reservation, is settled, drawn and corrected; "": the project."""
    nodes = (HUB, "", str(machine_id))
    for node in nodes:
        yield (
            node,
            BudgetExtended(reservation_id=reservation_id, machine_id=machine_id, lines=_lines("0.5", "0")),
        )
    tokens = Tokens(input=25, cache_write_5m=60, cache_write_1h=40, cache_read=1_000, output=20)
    settled = CallSettled(
        call_id=call_id,
        epoch=1,
        machine_type=MachineType.CLAUDE_API,
        provider="anthropic",
        model="claude-opus-5-5",
        tokens=tokens,
        multiplier=Decimal(1),
        cost_cad=Decimal("0.3"),
        cost=Decimal("0.2"),
        currency="USD",
        price_id=SNAPSHOT,
        began_at=MONTH,
        ended_at=MONTH,
    )
    yield str(machine_id), settled
    for node in nodes:
        yield node, BudgetDrawn(reservation_id=reservation_id, machine_id=machine_id, lines=_lines("0.3", "0"))
    corrected = CallCorrected(
        call_id=call_id, tokens=Tokens(input=25, output=30), cost_cad=Decimal("0.25"), reason="the provider's own bill"
    )
    yield str(machine_id), corrected


def life(slug: str, number: int, progress: int = 3, calls: int = 1) -> Iterator[Said]:
    """Yield a machine's events from its request to its settlement."""
    machine_id = derived("machine", slug, str(number))
    reservation_id = derived("reservation", slug, str(number))
    final = derived("final", slug, str(number))
    machine = address.machine(slug, machine_id)
    nodes = ((HUB, HUB), (slug, slug), (slug, str(machine_id)))
    yield _said(
        machine, MachineRequested(goal=f"make test {number}", machine_type=MachineType.SHELL, budget=Decimal(1))
    )
    yield _said(machine, MachineAdmitted(reservation_id=reservation_id, held={Resource.MONEY: Decimal(1)}))
    for slug_, node in nodes:
        reserved = BudgetReserved(reservation_id=reservation_id, machine_id=machine_id, lines=_lines("1", "60"))
        yield _said(address.budget(slug_, node), reserved)
    yield _said(
        machine,
        MachineProvisioningStarted(
            epoch=1,
            hypervisor="local",
            node="here",
            from_checkpoint_id=derived("genesis", slug),
            snapshot=SNAPSHOT,
            on_trunk=True,
        ),
    )
    yield _said(machine, MachineBooted(epoch=1, vm_id=f"vm-{number}"))
    yield _said(machine, MachineBecameReady(epoch=1, restore_ms=3))
    yield _said(machine, MachineWorkStarted(epoch=1))
    for step in range(progress):
        yield _said(machine, MachineProgressed(epoch=1, message=f"step {step}", percent=100 * step // progress))
    yield _said(machine, MachineSealingStarted(epoch=1, outcome=Outcome.SUCCEEDED, exit_code=0, checkpoint_id=final))
    taken = _taken(CheckpointType.FINAL, CreationContext.FINAL_STATE, machine_id, derived("genesis", slug))
    yield _said(address.checkpoint(slug, final), taken)
    for resource, unit, amount in ((Resource.TIME, Unit.MINUTES, "1.25"), (Resource.CPU, Unit.CPU_HOURS, "0.01")):
        yield _said(
            machine,
            UsageRecorded(
                epoch=1,
                resource_type=resource,
                resource_subtype="vm_runtime",
                amount=Decimal(amount),
                unit=unit,
                cost_cad=Decimal("0.000123"),
                period_start=MONTH,
                period_end=MONTH,
            ),
        )
    for number_of_call in range(calls):
        for said in call(derived("call", slug, str(number), str(number_of_call)), machine_id, reservation_id):
            where = address.budget(HUB if said[0] == HUB else slug, said[0] or slug)
            yield _said(where, said[1])
    yield _said(machine, MachineEnded(epoch=1, outcome=Outcome.SUCCEEDED, exit_code=0, checkpoint_id=final))
    yield _said(address.project(slug), ProjectAdvanced(checkpoint_id=final, machine_id=machine_id))
    for slug_, node in nodes:
        settled = BudgetSettled(reservation_id=reservation_id, machine_id=machine_id, lines=_lines("0.4", "1.25"))
        yield _said(address.budget(slug_, node), settled)
    yield _said(address.checkpoint(slug, final), CheckpointVerified(file_count=3, verify_ms=2))


def shop(machines: int = 2, slug: str = "webshop") -> list[Said]:
    """Return a project with some lives, one after the other."""
    return [*project(slug), *(said for number in range(machines) for said in life(slug, number))]


def _said(where: Address, event: Event) -> Said:
    return Said(where, event, CAUSE)


def _lines(money: str, minutes: str) -> Lines:
    return (
        Line(resource=Resource.MONEY, amount=Decimal(money), period=BudgetPeriod.MONTHLY, period_start=MONTH),
        Line(resource=Resource.TIME, amount=Decimal(minutes), period=BudgetPeriod.MONTHLY, period_start=MONTH),
    )


def _taken(
    kind: CheckpointType, context: CreationContext, machine_id: UUID | None = None, parent_id: UUID | None = None
) -> CheckpointTaken:
    return CheckpointTaken(
        checkpoint_type=kind,
        creation_context=context,
        snapshot=SNAPSHOT,
        parent_id=parent_id,
        machine_id=machine_id,
        epoch=None if machine_id is None else 1,
        file_count=3,
        size_bytes=4096,
        stored_bytes=1024,
        captured_bytes=4096,
    )
