"""What somebody is told whose model call was not made: what was asked, what stands against it, what to type."""

from decimal import Decimal
from math import ceil

from domain.budget.account import ZERO, free
from domain.budget.calls import Amounts
from domain.budget.envelope import Envelope, Obstacle
from events.budget import UNIT_OF
from events.ids import HUB
from events.ledger import Reserve
from events.words import BudgetPeriod, Resource

WORDS_MAX = 4_000


def explained(ask: Reserve, at: Envelope, stands: Obstacle, need: Amounts, *, parks: bool) -> str:
    """Return the refusal in a few sentences, with the numbers and the command that helps."""
    slug = ask.project
    book, unit = stands.book, UNIT_OF[stands.book.resource]
    allocated = "no cap" if book.allocated is None else f"{plain(book.allocated)} {unit}"
    period = "in all" if book.period is BudgetPeriod.TOTAL else str(book.period)
    what = "used" if stands.by_use else "reserved"
    spent = at.calls.spent.get(Resource.MONEY, ZERO)
    left = f"{plain(stands.available)} {unit} of {allocated} ({period}) are not {what}."
    if stands.node == at.node and book.resource is Resource.MONEY:
        kept = f"{plain(at.aside_cad)} CAD are kept aside for running it"
        left = f"{plain(stands.available)} {unit} of {allocated} are left for calls ({kept})."
    sentences = (
        f"autovibe: the budget of {_name(stands.node, slug)} is short:",
        f"a call of {ask.model} may take {plain(need[book.resource])} {unit}, {left}",
        f"This machine's calls have cost {plain(spent)} CAD so far.",
        "The machine parks with a checkpoint and goes on from this call when there is more:" if parks else "To go on:",
        f"{_remedy(stands, slug, at.node)}",
    )
    return " ".join(sentences)[:WORDS_MAX]


def plain(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def _name(node: str, slug: str) -> str:
    if node == HUB:
        return "the hub"
    return f"project {slug}" if node == slug else f"machine {node}"


def _remedy(stands: Obstacle, slug: str, machine: str) -> str:
    resource = "" if stands.book.resource is Resource.MONEY else f" --resource {stands.book.resource}"
    period = "" if stands.book.period is BudgetPeriod.TOTAL else f" --period {stands.book.period}"
    missing = max(1, ceil(stands.asked - free(stands.book)))  # what is there may be less than nothing
    amount = f"{missing}CAD" if stands.book.resource is Resource.MONEY else str(missing)
    own = f" --machine {machine}" if stands.node == machine else ""
    where = HUB if stands.node == HUB else slug
    return f"autovibe budget top-up {where} {amount}{own}{resource}{period}"
