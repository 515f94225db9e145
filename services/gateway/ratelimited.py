"""A provider's own rate limit: all calls with its credential wait together, one asks again, and long ones park machines."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from events import address
from events.envelope import Cause
from events.fresh import now
from events.machine import MachineHeld
from events.words import Hold
from services.gateway.tokens import Caller
from services.kit.log import Log, Write
from services.kit.repository import decide_and_append

FIRST_S = 2.0
"""The first pause where the provider says none; it doubles with each refusal in a row."""
UNSAID_S_MAX = 60.0
WAIT_S_MAX = 31 * 86_400.0
"""No provider's month is longer."""
LIMITED = frozenset({429, 529})
"""Too many requests, and overloaded."""


class LimitedFor(Exception):
    """The provider takes no calls for longer than anybody waits here."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"the provider's rate limit ends in {wait_s:.0f} s")
        self.wait_s = wait_s


class Cooldown:
    """What one credential may do, by what its provider said last."""

    def __init__(self, wait_s_max: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._wait_s_max = wait_s_max
        self._clock = clock
        self._until = 0.0
        self._refusals = 0
        self._probe = asyncio.Lock()

    @property
    def left_s(self) -> float:
        """How long the limit still holds."""
        return max(0.0, self._until - self._clock())

    @asynccontextmanager
    async def asking(self) -> AsyncGenerator[None]:
        """Wait until the credential may be used. After a refusal one call at a time asks, until one is not refused.

        Raises:
            LimitedFor: It takes longer than anybody waits here.
        """
        if not self._refusals:
            yield
            return
        if self.left_s > self._wait_s_max:
            raise LimitedFor(self.left_s)
        async with AsyncExitStack() as probing:
            await probing.enter_async_context(self._probe)
            while (left_s := self.left_s) > 0:
                if left_s > self._wait_s_max:
                    raise LimitedFor(left_s)
                await asyncio.sleep(left_s)
            if not self._refusals:  # whoever asked before was not refused: nobody has to ask alone any more
                await probing.aclose()
            yield

    def accepted(self) -> None:
        self._refusals, self._until = 0, 0.0

    def refused(self, headers: Mapping[str, str]) -> float:
        """Take in what came with a refusal. Returns how long to wait, in seconds."""
        self._refusals += 1
        said_s = said(headers, now())
        wait_s = said_s if said_s is not None else min(UNSAID_S_MAX, FIRST_S * 2 ** min(self._refusals - 1, 10))
        self._until = max(self._until, self._clock() + wait_s)
        return wait_s


def said(headers: Mapping[str, str], at: datetime) -> float | None:
    """Return how many seconds a provider asks to wait; None: it does not say."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            seconds = float(value) * unit_s
        except ValueError:
            found = _date(value, at)
        else:
            found = seconds if seconds >= 0 else None  # NaN is neither
        if found is not None:
            return min(WAIT_S_MAX, found)
    return None


def _date(value: str, at: datetime) -> float | None:
    if not value:
        return None
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, ((until if until.tzinfo else until.replace(tzinfo=UTC)) - at).total_seconds())


class Holds:
    """Says of machines that a provider's rate limit stands in their way: once per machine and epoch."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def hold(self, caller: Caller, upstream: str, wait_s: float) -> None:
        """Append MachineHeld(rate_limit); nothing where this incarnation is held for it already, or is over.

        Raises:
            Transient, Refused: As `Log.append`.
        """
        where = address.machine(caller.project, caller.machine_id)
        until = now() + timedelta(seconds=wait_s)

        async def decide() -> list[Write]:
            known = await self._log.load(where)
            held = [event.event for event in known.events if isinstance(event.event, MachineHeld)]
            if any(one.epoch == caller.epoch and one.hold is Hold.RATE_LIMIT for one in held):
                return []
            reason = f"the rate limit of {upstream} is reached until {until:%Y-%m-%d %H:%M:%S} UTC"
            event = MachineHeld(epoch=caller.epoch, hold=Hold.RATE_LIMIT, reason=reason, until=until)
            return [Write(where, known.seq, (event,))]

        await decide_and_append(self._log, decide, cause=Cause("gateway"))
