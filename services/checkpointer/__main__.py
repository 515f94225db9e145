"""Runs the checkpointer alone, on the chunk store at `AUTOVIBE_STORE_PATH`."""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from services.checkpointer.app import CheckpointerSettings, create_app
from services.kit.bus import Bus
from services.kit.main import serve_with
from services.kit.service import Service
from snapshots.directory import DirectoryChunkStore


@asynccontextmanager
async def _make(bus: Bus, settings: CheckpointerSettings) -> AsyncGenerator[Service]:
    with DirectoryChunkStore(settings.store_path) as store:
        async with create_app(bus, settings, store) as service:
            yield service


if __name__ == "__main__":
    sys.exit(serve_with(_make, CheckpointerSettings, "checkpointer"))
