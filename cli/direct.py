"""The few commands that work on the log and the database themselves, not through the query API."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cli.context import Context
from cli.exits import CliError, Exit

if TYPE_CHECKING:
    from services.kit.bus import Bus


@asynccontextmanager
async def hub_bus(context: Context, name: str) -> "AsyncGenerator[Bus]":
    """Connect to the bus as a service.

    Raises:
        CliError: Where the bus is, is not known, or it does not answer.
    """
    from services.kit.bus import Bus, BusSettings  # noqa: PLC0415  # nats only where it is used
    from services.kit.errors import Transient  # noqa: PLC0415
    from services.kit.logging import configure  # noqa: PLC0415

    if not context.nats_url:
        raise CliError(Exit.USAGE, "where NATS is, is not known", remedy="set AUTOVIBE_NATS_URL and AUTOVIBE_HUB_CREDS")
    configure("cli", level="error")
    settings = BusSettings(
        nats_url=context.nats_url,
        nats_creds=Path(context.hub_creds) if context.hub_creds else None,
        nats_connect_deadline_s=10.0,
    )
    try:
        async with Bus.connect(settings, name=name) as bus:
            yield bus
    except Transient as error:
        raise CliError(Exit.UNREACHABLE, str(error), remedy="start the hub with `autovibe dev`") from error


def database_url(context: Context) -> str:
    """Return the read models' database.

    Raises:
        CliError: It is not known.
    """
    if not context.database_url:
        raise CliError(Exit.USAGE, "where the database is, is not known", remedy="set AUTOVIBE_DATABASE_URL")
    return context.database_url
