"""Hears heartbeats. Silence counts only while we ourselves can hear."""

import asyncio
from uuid import UUID

from events import address as at
from services.kit.bus import Bus
from services.spawner.reconciler import Reconciler

BEATS = "beat.*.*.*"
HEARING_LOOK_S = 0.5


class Beats:
    """The subscriber of `beat.<project>.<machine>.<epoch>`."""

    def __init__(self, bus: Bus, reconciler: Reconciler) -> None:
        self._nc = bus.nc
        self._reconciler = reconciler
        self._sid: int | None = None

    async def start(self) -> None:
        self._sid = await self._nc.subscribe_raw(BEATS, self._on_beat)

    async def stop(self) -> None:
        if self._sid is not None:
            await self._nc.unsubscribe_raw(self._sid)

    async def stay_fair(self) -> None:
        """While we are cut off nobody's silence is held against them."""
        while True:
            await asyncio.sleep(HEARING_LOOK_S)
            if not self._nc.is_connected:
                self._reconciler.deaf()

    def _on_beat(self, subject: bytes, _reply: bytes, _header: bytes, _payload: bytes) -> None:
        tokens = subject.decode("utf-8", "replace").split(".")
        try:
            _, project, machine, epoch_text = tokens
            address, epoch = at.machine(project, UUID(machine)), int(epoch_text)
        except ValueError:
            return  # not one of ours; there is nobody to tell
        watch = self._reconciler.find(address)
        if watch is None:
            return
        was_silent = watch.known.machine.phase == "unreachable"
        watch.see(epoch)
        if was_silent:
            self._reconciler.touch(watch)
