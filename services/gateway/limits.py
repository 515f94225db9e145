"""Our own rate limits: requests and tokens a minute, and calls at once, for each provider, project and machine.

A call that is too early waits for its turn; turns are given in order of arrival within what a limit is of.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from services.gateway.settings import GatewaySettings, Upstream
from services.gateway.tokens import Caller

KEPT_MAX = 10_000
"""Limits kept that nobody uses; the one used longest ago is forgotten first, and with it that it was ever in use."""


class WaitedTooLong(Exception):
    """The turn did not come in time; nothing was taken."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What one provider, project or machine may do; 0: no limit."""

    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    concurrent_max: int = 0


class _Bucket:
    """Fills by the minute; may be taken from while anything is in it, and then fills from below zero.

    So a call larger than a whole minute's allowance gets its turn too, and those after it wait for what it took.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._per_s = per_minute / 60.0
        self._most = per_minute
        self._clock = clock
        self._left = per_minute
        self._at = clock()

    def wait_s(self) -> float:
        """How long until something is in it."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        need = min(1.0, self._most)
        return 0.0 if self._left >= need else (need - self._left) / self._per_s

    def take(self, amount: float) -> None:
        self._left -= amount


class _Gate:
    """One limit: those who wait are let through one after the other."""

    def __init__(self, limit: Limit, clock: Callable[[], float]) -> None:
        self._requests = _Bucket(limit.requests_per_minute, clock) if limit.requests_per_minute else None
        self._tokens = _Bucket(limit.tokens_per_minute, clock) if limit.tokens_per_minute else None
        self._slots = asyncio.Semaphore(limit.concurrent_max) if limit.concurrent_max else None
        self._turn = asyncio.Lock()
        self.users = 0

    async def enter(self, held: AsyncExitStack, tokens: int) -> None:
        """Wait for a turn; the place is given back when `held` is closed."""
        if self._slots is not None:
            await held.enter_async_context(self._slots)
        if self._requests is not None or self._tokens is not None:
            async with self._turn:
                await self._rate(tokens)

    async def _rate(self, tokens: int) -> None:
        while wait_s := max(bucket.wait_s() for bucket in (self._requests, self._tokens) if bucket is not None):
            await asyncio.sleep(wait_s)
        if self._requests is not None:
            self._requests.take(1)
        if self._tokens is not None:
            self._tokens.take(tokens)


class Limits:
    """All gates, by the name of what they limit."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._gates: OrderedDict[str, _Gate] = OrderedDict()

    async def enter(
        self, places: AsyncExitStack, limits: Sequence[tuple[str, Limit]], tokens: int, wait_s: float
    ) -> None:
        """Wait for a turn at each of the named limits, in this order; the places are held until `places` is closed.

        Raises:
            WaitedTooLong: No turn within `wait_s`; none is held.
        """
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(wait_s):
                    for name, limit in limits:
                        if limit != Limit():
                            gate = self._used(name, limit)
                            held.callback(self._left, gate)
                            await gate.enter(held, tokens)
            except TimeoutError as error:
                raise WaitedTooLong from error
            places.push_async_exit(held.pop_all())

    def _used(self, name: str, limit: Limit) -> _Gate:
        gate = self._gates.get(name)
        if gate is None:
            gate = self._gates[name] = _Gate(limit, self._clock)
        self._gates.move_to_end(name)
        gate.users += 1
        return gate

    def _left(self, gate: _Gate) -> None:
        gate.users -= 1
        self._forget()

    def _forget(self) -> None:
        while len(self._gates) > KEPT_MAX:
            name = next((name for name, gate in self._gates.items() if not gate.users), None)
            if name is None:
                return
            del self._gates[name]


def limits_of(settings: GatewaySettings, caller: Caller, upstream: Upstream) -> tuple[tuple[str, Limit], ...]:
    """Return all that limits a call, by whom it limits."""
    return (
        (
            f"machine {caller.machine_id}",
            Limit(
                settings.gateway_machine_requests_per_minute,
                settings.gateway_machine_tokens_per_minute,
                settings.gateway_machine_concurrent_max,
            ),
        ),
        (
            f"project {caller.project}",
            Limit(settings.gateway_project_requests_per_minute, settings.gateway_project_tokens_per_minute),
        ),
        (
            f"upstream {upstream.name}",
            Limit(upstream.requests_per_minute, upstream.tokens_per_minute, upstream.concurrent_max),
        ),
    )
