"""Says on the hub's account which tables of prices count, each once."""

from collections.abc import Callable, Sequence
from datetime import datetime

from events import address
from events.base import Event
from events.call import PriceTableLoaded
from events.envelope import Cause
from events.ids import HUB
from services.budget.prices import PriceBook
from services.kit.log import Log, Write
from services.kit.repository import Repository, decide_and_append

WHERE = address.budget(HUB, HUB)


def _none() -> frozenset[str]:
    return frozenset()


def _known(tables: frozenset[str], event: Event) -> frozenset[str]:
    return tables | {event.price_id} if isinstance(event, PriceTableLoaded) else tables


async def say_tables(log: Log, prices: PriceBook, now: Callable[[], datetime]) -> None:
    """Load the prices, which takes seconds, and say those tables that nobody has said yet."""
    loaded = await prices.load(now())
    repository = Repository[frozenset[str]](log, _none, _known, size=1)

    async def decided() -> Sequence[Write]:
        known = await repository.get(WHERE)
        return [Write(WHERE, known.seq, tuple(table for table in loaded if table.price_id not in known.state))]

    await decide_and_append(log, decided, cause=Cause("budget", reason="prices loaded"))
