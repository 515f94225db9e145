"""Timers: deadlines that the server keeps and writes into the log when they come.

Setting one is not atomic with the log, so a timer is derived from it: whoever owns a deadline sets it after the
append, and sets all again at start. Setting twice is setting once; a due time in the past fires at once.
"""

from datetime import UTC, datetime
from uuid import UUID

import orjson

from events.ids import derived
from events.timer import TimerFired
from schema.streams import TIMERS
from services.kit.bus import Bus
from services.kit.errors import Refused, Transient
from services.kit.wire import ApiError

PUBLISH_TIMEOUT_S = 5.0
UNAVAILABLE = 503
"""The server's word for: not now."""
FIRED_KEPT = "1h"
"""How long a fired timer stays in TIMERS after it was copied into the log."""


class Timers:
    """The timers of one owner."""

    def __init__(self, bus: Bus, owner: str) -> None:
        self._bus = bus
        self._owner = owner

    def id_of(self, key: str) -> UUID:
        """Return the timer's id: the third part of the address of its `TimerFired`."""
        return derived("timer", self._owner, key)

    async def set(self, key: str, due: datetime, project: str, aggregate: str, id: str, purpose: str) -> None:  # noqa: A002, PLR0917 # named as the event's fields
        """Set or move the timer of this key.

        Raises:
            Transient: Outcome unknown; set it again.
            Refused: The server does not take schedules.
        """
        timer_id = self.id_of(key)
        fired = TimerFired(
            owner=self._owner,
            project=project,
            subject_aggregate=aggregate,
            subject_id=id,
            purpose=purpose,
            due_at=due,
        )
        at = due.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        header = (
            f"NATS/1.0\r\nNats-Schedule: @at {at}\r\nNats-Schedule-Target: avt.fire.{timer_id}.TimerFired\r\n"
            f"Nats-Schedule-TTL: {FIRED_KEPT}\r\nce-type: TimerFired\r\nce-schemaversion: {TimerFired.version}\r\n\r\n"
        )
        reply = await self._bus.wire.publish(f"avt.sched.{timer_id}", header.encode(), fired.body(), PUBLISH_TIMEOUT_S)
        error = orjson.loads(reply.data).get("error")
        if error:
            kind = Transient if error.get("code") == UNAVAILABLE else Refused
            raise kind(f"timer {key!r} of {self._owner} was not set: {error.get('description')}")

    async def cancel(self, key: str) -> None:
        """Take the timer back; nothing happens when it has fired or never was. It may still fire at this moment.

        Raises:
            Transient, Refused: As `set`.
        """
        try:
            await self._bus.wire.api(f"STREAM.PURGE.{TIMERS}", {"filter": f"avt.sched.{self.id_of(key)}"})
        except ApiError as error:
            kind = Transient if error.code == UNAVAILABLE else Refused
            raise kind(f"timer {key!r} of {self._owner} was not cancelled: {error}") from error
