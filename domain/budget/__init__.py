"""Budgets: accounts of hub, project and machine; who may run; what is set aside before and settled after.

`available = allocated - used - reserved`, on every node of the path, for every resource and period with an allocation.
A reservation counts in the period in which it was made and is settled there. Deciding twice gives nothing the second
time, because the state shows that it is done.
"""

from typing import assert_never

from domain.budget.account import Account, balances
from domain.budget.admission import admit, cancelled
from domain.budget.allocation import opened
from domain.budget.decision import NOTHING, Admit, Cancel, Command, Decision, Expire, Readmit, Settle, Situation
from domain.budget.machine import Machine, Standing
from domain.budget.readmission import readmit
from domain.budget.settlement import settle
from events.words import Outcome

__all__ = [
    "Account",
    "Admit",
    "Cancel",
    "Command",
    "Decision",
    "Expire",
    "Machine",
    "Readmit",
    "Settle",
    "Situation",
    "Standing",
    "balances",
    "decide",
    "opened",
]


def decide(command: Command, at: Situation) -> Decision:
    """Decide over a machine and the accounts above it; what is decided is one atomic batch."""
    match command:
        case Admit():
            return admit(command, at)
        case Settle():
            return settle(command, at)
        case Readmit():
            return readmit(command, at)
        case Cancel() if at.machine.standing in {Standing.REQUESTED, Standing.QUEUED} and at.machine.stop_requested:
            return cancelled("stopped before it was admitted")
        case Expire() if at.machine.standing is Standing.QUEUED:
            return cancelled("queued for longer than allowed", Outcome.EXPIRED)
        case Cancel() | Expire():
            return NOTHING
        case _:
            assert_never(command)
