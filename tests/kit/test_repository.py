"""Folds that are kept, and deciding again after a conflict."""

import asyncio

import pytest

from cli.stack.nats import EmbeddedNats
from events import address
from events.base import Event
from events.envelope import Cause
from events.project import ProjectCreated, ProjectUpdated
from services.kit.bus import Bus
from services.kit.errors import Transient
from services.kit.log import History, Write
from services.kit.repository import Repository, decide_and_append
from tests.kit.conftest import connect

CAUSE = Cause("budget")
HOME = address.project("home")


class Counted:
    """A repository that counts what it folds."""

    def __init__(self, bus: Bus, size: int = 10) -> None:
        self.folded = 0
        self.repository = Repository(bus.log, tuple[str, ...], self.evolve, size)

    def evolve(self, state: tuple[str, ...], event: Event) -> tuple[str, ...]:
        self.folded += 1
        return (*state, event.type())


async def test_only_what_is_new_is_read_again(bus: Bus) -> None:
    counted = Counted(bus)
    assert (await counted.repository.get(HOME)).state == ()
    await bus.log.append(Write(HOME, 0, (ProjectCreated(), ProjectUpdated())), cause=CAUSE)
    loaded = await counted.repository.get(HOME)
    assert (loaded.state, loaded.seq, counted.folded) == (("ProjectCreated", "ProjectUpdated"), 2, 2)
    await bus.log.append(Write(HOME, 2, (ProjectUpdated(),)), cause=CAUSE)
    loaded = await counted.repository.get(HOME)
    assert (len(loaded.state), loaded.seq, counted.folded) == (3, 3, 3)


async def test_the_least_used_is_forgotten_and_folded_anew(bus: Bus) -> None:
    counted = Counted(bus, size=2)
    for name in ("a", "b", "c"):
        await bus.log.append(Write(address.project(name), 0, (ProjectCreated(),)), cause=CAUSE)
        await counted.repository.get(address.project(name))
    assert counted.folded == 3
    await counted.repository.get(address.project("c"))
    assert counted.folded == 3
    assert (await counted.repository.get(address.project("a"))).state == ("ProjectCreated",)
    assert counted.folded == 4


async def test_those_who_ask_at_once_share_a_read_that_began_after_they_asked(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, reads, load = Counted(bus), list[int](), bus.log.load

    async def counting(where: address.Address, after: int = 0) -> History:
        reads.append(after)
        history = await load(where, after)
        if len(reads) == 1:  # while the first is on its way, something happens
            await bus.log.append(Write(HOME, 0, (ProjectCreated(),)), cause=CAUSE)
        return history

    monkeypatch.setattr(bus.log, "load", counting)
    found = await asyncio.gather(*(counted.repository.get(HOME) for _ in range(50)))
    assert [each.seq for each in found] == [0] + [1] * 49
    assert (len(reads), counted.folded) == (2, 1)


async def test_one_who_gives_up_while_it_reads_leaves_the_reading_to_the_next(bus: Bus) -> None:
    await bus.log.append(Write(HOME, 0, (ProjectCreated(),)), cause=CAUSE)
    repository = Counted(bus).repository
    first, second = (asyncio.ensure_future(repository.get(HOME)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).seq == 1


async def test_everybody_who_decides_at_once_gets_a_turn(server: EmbeddedNats, bus: Bus) -> None:
    async with connect(server, "rival") as rival:
        repositories = [(each, Counted(each).repository) for each in (bus, rival)]

        async def add(n: int) -> None:
            where, repository = repositories[n % 2]

            async def decide() -> list[Write]:
                return [Write(HOME, (await repository.get(HOME)).seq, (ProjectUpdated(description=str(n)),))]

            await decide_and_append(where.log, decide, cause=CAUSE, conflicts_max=200)

        await asyncio.gather(*(add(n) for n in range(30)))
    said = [each.event for each in (await bus.log.load(HOME)).events]
    assert sorted(int(event.description or 0) for event in said if isinstance(event, ProjectUpdated)) == list(range(30))


async def test_nothing_to_say_is_nothing_appended(bus: Bus) -> None:
    async def decide() -> list[Write]:
        return [Write(HOME, 0, ())]

    assert await decide_and_append(bus.log, decide, cause=CAUSE) is None
    assert await bus.log.end() == 0


async def test_a_decision_that_never_fits_is_given_up(bus: Bus) -> None:
    await bus.log.append(Write(HOME, 0, (ProjectCreated(),)), cause=CAUSE)
    rounds = 0

    async def decide() -> list[Write]:
        nonlocal rounds
        rounds += 1
        return [Write(HOME, 0, (ProjectUpdated(),))]

    with pytest.raises(Transient, match="after 3 rounds"):
        await decide_and_append(bus.log, decide, cause=CAUSE, conflicts_max=3)
    assert rounds == 3
