"""Runs one service alone in its process: settings, logging, bus, health, until SIGTERM or SIGINT."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import structlog
import uvloop
from pydantic import ValidationError

from services.kit import logging as kit_logging
from services.kit.bus import Bus
from services.kit.errors import KitError
from services.kit.health import Health, Part
from services.kit.http import serve_health
from services.kit.metrics import Metrics
from services.kit.service import Service
from services.kit.settings import ServiceSettings

S = TypeVar("S", bound=ServiceSettings)

EXIT_FAILED = 1
EXIT_USAGE = 2


def serve(create_app: Callable[[Bus, S], Service], settings_type: type[S], name: str) -> int:
    """Run until told to end. Returns the exit code: 0 ended as told, 1 refused to run, 2 wrong settings."""

    @asynccontextmanager
    async def make(bus: Bus, settings: S) -> AsyncGenerator[Service]:
        async with create_app(bus, settings) as service:
            yield service

    return serve_with(make, settings_type, name)


def serve_with(
    make: Callable[[Bus, S], AbstractAsyncContextManager[Service]], settings_type: type[S], name: str
) -> int:
    """As `serve`, for a service whose ports must be opened first: `make` opens them and yields the running service."""
    try:
        settings = settings_type()
    except ValidationError as error:
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"])
            sys.stderr.write(f"{name}: setting {where}: {problem['msg']}\n")
        return EXIT_USAGE
    kit_logging.configure(name, settings.log_level, settings.log_format)
    log: structlog.stdlib.BoundLogger = structlog.get_logger("main")
    exit_code = 0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_run(make, settings, name, log))
        except* KitError as errors:  # a service's task group says its own in a group
            log.error("service.refused", reason=_first(errors))  # noqa: TRY400 # the message is the whole story
            exit_code = EXIT_FAILED
    return exit_code


def _first(errors: ExceptionGroup[KitError]) -> str:
    """Return what the first error of a group, however deep, says."""
    first: KitError | ExceptionGroup[KitError] = errors
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    return str(first)


async def _run(
    make: Callable[[Bus, S], AbstractAsyncContextManager[Service]],
    settings: S,
    name: str,
    log: structlog.stdlib.BoundLogger,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    started: list[tuple[Bus, Service]] = []

    async def health() -> Health:
        if not started:
            return Health((Part(name, ok=False, detail="starting"),))
        bus, service = started[0]
        return bus.health() + await service.health()

    def metrics() -> bytes:
        return (started[0][1].metrics if started else Metrics(name)).text()

    async with (
        serve_health(settings.health_host, settings.health_port, health, metrics) as port,
        Bus.connect(settings, name=f"autovibe {name}") as bus,
        make(bus, settings) as service,
    ):
        started.append((bus, service))
        log.info("service.started", name=name, health_port=port)
        await stop.wait()
        log.info("service.stopping", name=name)
    log.info("service.stopped", name=name)
