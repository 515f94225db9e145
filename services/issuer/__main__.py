"""Run the issuer alone: `python -m services.issuer`."""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from services.issuer.app import Issuer, create_app
from services.issuer.settings import IssuerSettings
from services.kit.bus import Bus
from services.kit.main import serve_with


@asynccontextmanager
async def _make(bus: Bus, settings: IssuerSettings) -> AsyncGenerator[Issuer]:
    as_system = settings.model_copy(update={"nats_creds": settings.nats_system_creds})
    async with (
        Bus.connect(as_system, name="autovibe issuer (system)") as system,
        create_app(bus, system.nc, settings) as issuer,
    ):
        yield issuer


if __name__ == "__main__":
    sys.exit(serve_with(_make, IssuerSettings, "issuer"))
