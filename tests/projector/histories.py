"""Histories of the log: any valid events in any order, on so few aggregates that they meet."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import strategies as st

from events import address
from events.address import Address
from events.base import Event
from events.envelope import Cause
from events.ids import HUB, derived
from events.registry import EVENTS
from services.kit.message import RawMessage, encode
from tests.events.strategies import Pools, events

SLUGS = ("webshop", "blog")
MACHINES = tuple(derived("test", "machine", str(number)) for number in range(2))
CHECKPOINTS = tuple(derived("test", "checkpoint", str(number)) for number in range(2))
RESERVATIONS = tuple(derived("test", "reservation", str(number)) for number in range(2))
CALLS = tuple(derived("test", "call", str(number)) for number in range(2))
CREDENTIALS = tuple(derived("test", "credential", str(number)) for number in range(2))
HUBS = tuple(derived("test", "hub", str(number)) for number in range(2))
PERIODS = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
START = datetime(2026, 1, 30, 12, tzinfo=UTC)

_POOLS: Pools = {
    "machine_id": st.sampled_from(MACHINES),
    "checkpoint_id": st.sampled_from(CHECKPOINTS),
    "from_checkpoint_id": st.sampled_from(CHECKPOINTS),
    "parent_id": st.sampled_from(CHECKPOINTS),
    "reservation_id": st.sampled_from(RESERVATIONS),
    "call_id": st.sampled_from(CALLS),
    "period_start": st.sampled_from(PERIODS),
}
_BEGINNINGS = (
    "ProjectCreated",
    "MachineRequested",
    "CheckpointTaken",
    "BudgetReserved",
    "CallSettled",
    "CredentialIssued",
    "HubRegistered",
)


@dataclass(frozen=True, slots=True)
class Said:
    """One event of a history."""

    address: Address
    event: Event
    cause: Cause


def _addresses(aggregate: str) -> st.SearchStrategy[Address]:  # noqa: PLR0911 # a return per aggregate
    slugs = st.sampled_from(SLUGS)
    match aggregate:
        case "project":
            return slugs.map(address.project)
        case "machine":
            return st.sampled_from(MACHINES).map(lambda machine: address.machine(SLUGS[0], machine))
        case "checkpoint":
            return st.sampled_from(CHECKPOINTS).map(lambda found: address.checkpoint(SLUGS[0], found))
        case "budget":
            nodes = ((HUB, HUB), (SLUGS[0], SLUGS[0]), (SLUGS[0], str(MACHINES[0])))
            return st.sampled_from([address.budget(slug, node) for slug, node in nodes])
        case "credential":
            return st.sampled_from(CREDENTIALS).map(lambda found: address.credential(HUB, found))
        case "hub":
            return st.sampled_from(HUBS).map(lambda found: Address(HUB, "hub", str(found)))
        case _:
            return st.sampled_from(("deadline-1", "deadline-2")).map(lambda name: Address(HUB, aggregate, name))


def _causes() -> st.SearchStrategy[Cause]:
    ids = st.none() | st.uuids()
    reasons = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    return st.builds(Cause, st.sampled_from(("spawner", "client:Zoë %41")), ids, ids, reasons)


def _said(name: str) -> st.SearchStrategy[Said]:
    event = EVENTS[name]
    return st.builds(Said, _addresses(event.aggregate), events(event, _POOLS), _causes())


_SAID = {name: _said(name) for name in EVENTS}
_STORIES = (
    ("project",),
    ("machine",),
    ("machine", "checkpoint"),
    ("machine", "budget"),
    ("budget",),
    ("credential", "hub", "timer"),
    ("project", "machine", "checkpoint", "budget", "credential", "hub", "timer"),
)
"""What a history is about: events of few kinds meet more often."""


def histories(shortest: int = 10, longest: int = 30) -> st.SearchStrategy[list[Said]]:
    def about(aggregates: tuple[str, ...]) -> st.SearchStrategy[list[Said]]:
        names = [name for name, event in EVENTS.items() if event.aggregate in aggregates]
        names += [name for name in names if name in _BEGINNINGS] * 2
        said = st.sampled_from(names).flatmap(_SAID.__getitem__)
        return st.lists(said, min_size=shortest, max_size=longest)

    return st.sampled_from(_STORIES).flatmap(about)


def recorded_at(seq: int) -> datetime:
    """Return when the log recorded an event: every half hour, so that a history crosses into another month."""
    return START + timedelta(minutes=30 * seq)


def event_id(seq: int) -> UUID:
    return derived("test", "event", str(seq))


def messages(history: Iterable[Said], after: int = 0) -> list[RawMessage]:
    """Return the history as the log hands it out."""
    return [message(seq, item) for seq, item in enumerate(history, after + 1)]


def message(seq: int, item: Said) -> RawMessage:
    at = recorded_at(seq)
    piece = encode(item.address, item.event, event_id(seq), item.cause, at - timedelta(milliseconds=3))
    header = b"NATS/1.0\r\n" + piece.headers + b"\r\n"
    return RawMessage(seq, piece.subject, header, piece.body, int(at.timestamp()) * 1_000_000_000)


def cuts(length: int) -> st.SearchStrategy[Sequence[tuple[int, int]]]:
    """Return stretches that cover a history in order; some begin before the last one ended: delivered again."""
    steps = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), min_size=3, max_size=8)

    def laid(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        reached = 0
        for size, again in parts:
            start = max(0, reached - again)
            reached = min(length, reached + size)
            found.append((start, reached))
        return [*found, (reached, length)]

    return steps.map(laid)
