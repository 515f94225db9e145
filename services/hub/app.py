"""The hub says that it exists (once), that it came up (at every start) and that it went down (at a clean stop)."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Self

import structlog

from events.address import Address
from events.envelope import Cause
from events.hub import HubEvent, HubRegistered, HubStarted, HubStopped
from events.ids import HUB, derived
from events.words import HubType
from services.hub.settings import HubSettings
from services.kit.bus import Bus
from services.kit.errors import KitError
from services.kit.health import Health, Part
from services.kit.log import Write
from services.kit.metrics import Metrics
from services.kit.repository import decide_and_append

PRIMARY = Address(HUB, "hub", str(derived("hub", "primary")))
ACTOR = "hub"
STOP_DEADLINE_S = 5.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger("hub")

__all__ = ["PRIMARY", "Hub", "HubSettings", "create_app"]


def create_app(bus: Bus, settings: HubSettings) -> "Hub":
    return Hub(bus, settings)


class Hub:
    """The primary hub, up inside its `async with` block. There is to be one of it; a second one is another start."""

    name = "hub"

    def __init__(self, bus: Bus, settings: HubSettings) -> None:
        self.metrics = Metrics(self.name)
        self._log = bus.log
        self._settings = settings
        self._version = _version()

    async def __aenter__(self) -> Self:
        await decide_and_append(self._log, self._start, cause=Cause(ACTOR))
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc_type is not None:
            return  # a crash says nothing, whether it could or not
        try:
            await decide_and_append(self._log, self._stop, cause=Cause(ACTOR), deadline_s=STOP_DEADLINE_S)
        except KitError as error:
            _log.warning("hub.unheard", reason=str(error), consequence="this stop looks like a crash")

    async def health(self) -> Health:
        return Health((Part("hub", ok=True, detail=f"version {self._version}"),))

    async def _start(self) -> Sequence[Write]:
        history = await self._log.load(PRIMARY)
        registered = any(isinstance(recorded.event, HubRegistered) for recorded in history.events)
        said: tuple[HubEvent, ...] = (HubStarted(hub_version=self._version),)
        if not registered:
            exists = HubRegistered(hub_type=HubType.PRIMARY, name=self._settings.hub_name, hub_version=self._version)
            said = (exists, *said)
        return [Write(PRIMARY, history.seq, said)]

    async def _stop(self) -> Sequence[Write]:
        last = await self._log.last(PRIMARY)
        assert last is not None
        return [Write(PRIMARY, last.seq, (HubStopped(reason="told to stop"),))]


def _version() -> str:
    try:
        return version("autovibe")
    except PackageNotFoundError:
        return "unknown"
