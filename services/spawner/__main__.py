"""Runs the spawner alone, with sandboxes of this host under `AUTOVIBE_MACHINES_PATH`."""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import Field

from hypervisors.local.driver import LocalHypervisor, LocalSettings
from services.kit.bus import Bus
from services.kit.credentials import CredentialSource, IssuerClient, NoCredentials
from services.kit.main import serve_with
from services.kit.service import Service
from services.spawner.app import SpawnerSettings, create_app


class LocalSpawnerSettings(SpawnerSettings):
    """The spawner's, and where the sandboxes are."""

    machines_path: Path = Field(default=Path("data/machines"))


@asynccontextmanager
async def _make(bus: Bus, settings: LocalSpawnerSettings) -> AsyncGenerator[Service]:
    issuer: CredentialSource = IssuerClient(bus.nc) if settings.nats_creds else NoCredentials()
    async with (
        LocalHypervisor(LocalSettings(data=settings.machines_path)) as hypervisor,
        create_app(bus, settings, hypervisor, issuer) as service,
    ):
        yield service


if __name__ == "__main__":
    sys.exit(serve_with(_make, LocalSpawnerSettings, "spawner"))
