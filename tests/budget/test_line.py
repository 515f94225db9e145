"""The line keeps serving whoever can be served, whatever one of those who wait does to it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from domain.budget.queue import Waiting
from events import address, fresh
from events.envelope import Cause, Recorded
from events.machine import MachineQueued
from events.words import Hold
from services.budget.line import Line
from services.kit.errors import Transient
from services.kit.log import Write
from tests.budget.conftest import Client
from tests.budget.world import machine_id
from tests.harness import eventually

BAD, GOOD = machine_id(1), machine_id(2)


class Tries:
    """What was tried, and what goes wrong for whom."""

    def __init__(self, trouble: Mapping[UUID, Callable[[], Exception]]) -> None:
        self.trouble: Mapping[UUID, Callable[[], Exception]] = trouble
        self.tried: list[UUID] = []

    async def attempt(self, waiting: Waiting, _: Recorded) -> None:
        self.tried.append(waiting.machine_id)
        if make := self.trouble.get(waiting.machine_id):
            raise make()


async def nothing() -> None:
    """Say no shares."""


@asynccontextmanager
async def serving(client: Client, tries: Tries, look_s: float = 0.02) -> AsyncGenerator[Line]:
    """Serve a line in which each of two projects waits for its own account, the bad one first."""
    for who, slug in ((BAD, "bakery"), (GOOD, "florist")):
        said = MachineQueued(hold=Hold.BUDGET, node=slug)
        await client.bus.log.append(Write(address.machine(slug, who), 0, (said,)), cause=Cause("test"))
    line = Line(client.bus.log, tries.attempt, nothing, look_s, 64, fresh.now)
    await line.catch_up()
    serve = asyncio.create_task(line.serve())
    try:
        yield line
    finally:
        assert not serve.done(), "the line is served for ever"
        serve.cancel()
        await asyncio.wait({serve})


@pytest.mark.parametrize("error", [Transient("the log is away"), RuntimeError("a bug")])
async def test_one_that_fails_does_not_keep_the_others_from_being_tried(client: Client, error: Exception) -> None:
    tries = Tries({BAD: lambda: error})
    async with serving(client, tries):
        await eventually(lambda: tries.tried.count(GOOD) >= 20)
        assert 1 <= tries.tried.count(BAD) < 6, "and it is not tried as often as they are"


async def test_an_unexpected_error_makes_it_unwell_until_the_machine_could_be_tried(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.budget.line.PAUSE_MIN_S", 0.01)
    tries = Tries({BAD: lambda: RuntimeError("a bug")})
    async with serving(client, tries) as line:
        await eventually(lambda: not line.health().ok)
        assert str(BAD) in line.health().detail
        assert "RuntimeError: a bug" in line.health().detail
        tries.trouble = {BAD: lambda: Transient("away")}
        await eventually(lambda: line.health().ok)
        tries.trouble = {}
        tried = tries.tried.count(BAD)
        await eventually(lambda: tries.tried.count(BAD) > tried + 5)
        assert line.health().detail == "2 machines queued"


async def test_who_failed_is_tried_again_after_its_pause_though_nothing_is_heard(client: Client) -> None:
    left = [Transient("away")]
    tries = Tries({BAD: lambda: left.pop(0)})
    async with serving(client, tries, look_s=3_600):
        await eventually(lambda: tries.tried == [BAD, GOOD])
        tries.trouble = {}
        await eventually(lambda: tries.tried.count(BAD) == 2)
