"""The checkpointer hears what agents captured, looks whether the store holds it, and says what is a checkpoint.

It makes each project's genesis, has running machines captured on request, verifies what was taken by restoring it,
drops what retention says, and exchanges chunks over HTTP.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from prometheus_client import Gauge

from services.checkpointer.chunks import Chunks
from services.checkpointer.desk import Desk
from services.checkpointer.http import serving, store_app
from services.checkpointer.reports import Reports
from services.checkpointer.requests import Requests
from services.checkpointer.retention import Retention
from services.checkpointer.settings import CheckpointerSettings
from services.checkpointer.verifier import Verifier
from services.kit.apikeys import ApiKeys
from services.kit.bus import Bus
from services.kit.health import Health, Part
from services.kit.metrics import Metrics
from services.kit.reactor import Reactors
from snapshots.directory import DirectoryChunkStore

__all__ = ["Checkpointer", "CheckpointerSettings", "create_app"]


def create_app(bus: Bus, settings: CheckpointerSettings, store: DirectoryChunkStore) -> "Checkpointer":
    """Build the checkpointer; it runs inside its `async with` block. The store stays the caller's."""
    return Checkpointer(bus, settings, store)


class Checkpointer:
    """All parts of the checkpointer, wired."""

    name = "checkpointer"

    def __init__(self, bus: Bus, settings: CheckpointerSettings, store: DirectoryChunkStore) -> None:
        self.metrics = Metrics(self.name)
        self._settings = settings
        self._desk = Desk(bus.log)
        self._store = store
        self._keys = ApiKeys(bus.log)
        self._threads = ThreadPoolExecutor(settings.store_threads, thread_name_prefix="store-http")
        self.store_port = 0
        """Where chunks are exchanged, once it runs."""
        self._chunks = Chunks(store, settings.store_threads, settings.scratch)
        self._requests = Requests(bus, self._desk, self._chunks, settings)
        self._verifier = Verifier(self._desk, self._chunks, settings)
        self.retention = Retention(self._desk, self._chunks, settings)
        self._reactors = Reactors(bus, self.name, self.metrics)
        self._reactors.on_report(
            stream="IN",
            durable="checkpointer-reports",
            subjects=["from.*.*.*.checkpointer.>"],
            concurrency=settings.checkpointer_reports_at_once,
        )(Reports(self._desk, self._chunks, settings).handle)
        self._exits = AsyncExitStack()
        self._pending = Gauge(
            "autovibe_checkpoints_unverified", "Checkpoints that wait to be verified", registry=self.metrics.registry
        )

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            exits.callback(self._chunks.close)
            exits.callback(self._threads.shutdown, cancel_futures=True)
            await self._desk.load()
            keys = await exits.enter_async_context(self._keys.following())
            http = store_app(self._store, keys, self._threads)
            serve = serving(http, self._settings.store_host, self._settings.store_port)
            self.store_port = await exits.enter_async_context(serve)
            tasks = await exits.enter_async_context(asyncio.TaskGroup())
            work = [self._desk.follow(self._heard), self._requests.run(), self.retention.run()]
            if self._settings.verify:
                work.append(self._verifier.run())
            for each in work:
                exits.callback(tasks.create_task(each).cancel)
            await exits.enter_async_context(self._reactors.running())
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._exits.__aexit__(exc_type, exc, tb)

    async def health(self) -> Health:
        unverified = sum(len(project.unverified) for project in self._desk.overview.projects.values())
        self._pending.set(unverified)
        waits = f"{unverified} wait, the oldest for {self._verifier.oldest_s:.0f} s"
        own = Health(
            (
                Part("log", ok=True, detail=f"read up to seq {self._desk.position}"),
                Part("verification", ok=not self._verifier.is_late, detail=waits),
            )
        )
        return own + self._keys.health() + await self._reactors.health()

    def _heard(self) -> None:
        self._requests.moved.tell()
        self._verifier.moved.tell()
