"""Every service as tasks of this process, each on a connection of its own, in the order in which they need each other."""

import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypedDict

import structlog

from cli.exits import CliError, Exit
from cli.stack import models
from cli.stack.places import Places
from hypervisors.local.driver import LocalHypervisor, LocalSettings
from hypervisors.port import Hypervisor
from services.budget import app as budget
from services.checkpointer import app as checkpointer
from services.gateway import app as gateway
from services.hub import app as hub
from services.intake import app as intake
from services.issuer import app as issuer
from services.kit.bus import Bus, BusSettings
from services.kit.credentials import IssuerClient
from services.kit.service import Service
from services.projector import app as projector
from services.query import app as query
from services.spawner import app as spawner
from snapshots.directory import DirectoryChunkStore

_log: structlog.stdlib.BoundLogger = structlog.get_logger("stack")

Make = Callable[[Bus], Service]


@asynccontextmanager
async def running(places: Places) -> AsyncGenerator[list[Service]]:
    """Start all services and stop them in the opposite order.

    Raises:
        CliError: Machines cannot be isolated on this host.
    """
    async with AsyncExitStack() as stack:
        _renew_scratch(places)
        hypervisor = await _hypervisor(stack, places)
        started: list[Service] = []
        for name, make in (await _services(stack, places, hypervisor)).items():
            bus = await stack.enter_async_context(_bus(places, f"autovibe {name}"))
            started.append(await stack.enter_async_context(make(bus)))
            _log.info("service.started", name=name)
        yield started


async def _services(stack: AsyncExitStack, places: Places, hypervisor: Hypervisor) -> dict[str, Make]:
    """Return how each service is made, in the order in which they start."""
    store = stack.enter_context(DirectoryChunkStore(places.store))
    answering = await stack.enter_async_context(models.running())
    tariff = budget.BudgetSettings(**_common(places))
    tariff = tariff.model_copy(update={"prices_own": (*tariff.prices_own, *answering.prices)})
    door = intake.IntakeSettings(**_common(places))
    if answering.defaults is not None:
        door = door.model_copy(update={"default_models": answering.defaults})
    calls = gateway.GatewaySettings(
        gateway_host=places.host, gateway_port=places.gateway_port, **_common(places)
    ).model_copy(update={"gateway_upstreams": answering.upstreams} if answering.upstreams else {})
    system = await stack.enter_async_context(
        Bus.connect(
            BusSettings(nats_url=places.nats_url, nats_creds=places.nats_system_creds), name="autovibe issuer system"
        )
    )
    return {
        "issuer": lambda bus: issuer.create_app(
            bus, system.nc, issuer.IssuerSettings(issuer_keys=places.keys, **_common(places))
        ),
        "hub": lambda bus: hub.create_app(bus, hub.HubSettings(**_common(places))),
        "intake": lambda bus: intake.create_app(bus, door),
        "budget": lambda bus: budget.create_app(bus, tariff),
        "checkpointer": lambda bus: checkpointer.create_app(
            bus,
            checkpointer.CheckpointerSettings(
                store_path=places.store,
                store_host=places.host,
                store_port=places.store_port,
                scratch=places.scratch,
                **_common(places),
            ),
            store,
        ),
        "gateway": lambda bus: gateway.create_app(bus, calls),
        "spawner": lambda bus: spawner.create_app(
            bus,
            spawner.SpawnerSettings(
                store=str(places.store),
                agent_gateway_url=f"http://{places.host}:{places.gateway_port}",
                **_common(places),
            ),
            hypervisor,
            IssuerClient(bus.nc),
            tariff.tariff,
        ),
        "projector": lambda bus: projector.create_app(
            bus, projector.ProjectorSettings(database_url=places.database_url, **_common(places))
        ),
        "query": lambda bus: query.create_app(
            bus,
            query.QuerySettings(
                database_url=places.database_reader_url,
                store=places.store,
                query_host=places.host,
                query_port=places.http_port,
                **_common(places),
            ),
        ),
    }


class _Common(TypedDict):
    """What every service's settings take from the stack."""

    nats_url: str
    nats_creds: Path | None
    nats_monitor_url: str | None


def _common(places: Places) -> _Common:
    return {
        "nats_url": places.nats_url,
        "nats_creds": places.nats_creds,
        "nats_monitor_url": places.nats_monitor_url,
    }


def _bus(places: Places, name: str) -> AbstractAsyncContextManager[Bus]:
    return Bus.connect(BusSettings(**_common(places)), name=name)


def _renew_scratch(places: Places) -> None:
    """Begin with an empty scratch; what a verification that was stopped left there is removed with ended machines."""
    trash = places.machines / "trash"
    trash.mkdir(mode=0o700, exist_ok=True)
    if places.scratch.exists():
        places.scratch.rename(trash / uuid.uuid4().hex)
    places.scratch.mkdir(mode=0o700)


async def _hypervisor(stack: AsyncExitStack, places: Places) -> Hypervisor:
    """Return this host's hypervisor, proved; machines that could not be isolated are not started at all."""
    driver = await stack.enter_async_context(
        LocalHypervisor(LocalSettings(data=places.machines, hidden=(places.keys, places.store, places.scratch)))
    )
    tested = await driver.self_test()
    if not tested.ok:
        raise CliError(
            Exit.FAILED,
            f"the sandbox is not safe on this host: {'; '.join(tested.problems)}",
            remedy="autovibe doctor says what is missing",
        )
    return driver
