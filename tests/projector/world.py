"""Saying things to a log and looking at what becomes of them."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import psycopg

from services.kit.bus import Bus
from services.kit.log import Write
from services.projector.app import ProjectorService, ProjectorSettings, create_app
from services.projector.status import Status, status
from tests.harness import eventually
from tests.projector.histories import Said


def settings(database: str) -> ProjectorSettings:
    return ProjectorSettings(database_url=database, projector_check_s=0.1, projector_retry_s_max=0.2)


@asynccontextmanager
async def projecting(bus: Bus, database: str) -> AsyncGenerator[ProjectorService]:
    async with create_app(bus, settings(database)) as service:
        yield service


async def say(bus: Bus, history: Iterable[Said]) -> int:
    """Append events one after the other; returns the seq of the last."""
    seqs: dict[str, int] = {}
    seq = 0
    for item in history:
        key = str(item.address)
        if key not in seqs:
            seqs[key] = (await bus.log.load(item.address)).seq
        seq = seqs[key] = (await bus.log.append(Write(item.address, seqs[key], (item.event,)), cause=item.cause)).seq
    return seq


async def projected(bus: Bus, database: str, seq: int) -> None:
    async def reached() -> bool:
        return (await status(bus.log, database)).position >= seq

    await eventually(reached)


async def halted(bus: Bus, database: str) -> Status:
    """Wait until the projection has halted."""

    async def found() -> Status | None:
        stands = await status(bus.log, database)
        return stands if stands.state == "halted" else None

    stands = await eventually(found)
    assert stands is not None
    return stands


def change(database: str, statement: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(statement.encode())


def rows(database: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(database) as connection:
        return connection.execute(query.encode()).fetchall()
