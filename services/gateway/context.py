"""What a model call is to the parts of the gateway, and the port of those who hold it for a checkpoint."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from services.gateway.usage import Json


class Dialect(StrEnum):
    """How client and provider speak."""

    ANTHROPIC = "anthropic"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class CallContext:
    """One call of one incarnation; a client that tries again makes another call."""

    project: str
    machine_id: UUID
    epoch: int
    call_id: UUID
    protocol: Dialect


class InFlight:
    """How many calls of each machine are open: held back here, or with a provider.

    A machine whose open calls are all held is quiet, as far as its model calls go.
    """

    def __init__(self) -> None:
        self._open: Counter[UUID] = Counter()
        self._held: Counter[UUID] = Counter()

    def opened(self, machine_id: UUID) -> None:
        self._open[machine_id] += 1

    def closed(self, machine_id: UUID) -> None:
        _less(self._open, machine_id)

    def held(self, machine_id: UUID) -> None:
        self._held[machine_id] += 1

    def released(self, machine_id: UUID) -> None:
        _less(self._held, machine_id)

    def open_of(self, machine_id: UUID) -> int:
        return self._open.get(machine_id, 0)

    def streaming_of(self, machine_id: UUID) -> int:
        """How many are with a provider now: the machine may get an answer at any time."""
        return self.open_of(machine_id) - self._held.get(machine_id, 0)

    @property
    def total(self) -> int:
        return sum(self._open.values())

    @property
    def machines(self) -> int:
        return len(self._open)


def _less(counts: Counter[UUID], machine_id: UUID) -> None:
    counts[machine_id] -= 1
    if counts[machine_id] <= 0:
        del counts[machine_id]


class RiskWatch(Protocol):
    """Looks at the tool calls of one answer; what it is awaited for is delivered after."""

    async def on_tool(self, name: str, input_json: str) -> None:
        """A tool call is complete; returns when it may be delivered. Never raises, and has its own deadline."""
        ...


class Boundary(Protocol):
    """Who holds calls back until a machine's work is captured. Both never raise and have a deadline of their own."""

    async def between_calls(self, call: CallContext, body: Json) -> None:
        """Return when the call may go on; `body` is what the client asks."""
        ...

    def risk_watch(self, call: CallContext) -> RiskWatch | None:
        """Who is to see the tool calls of this call's answer; None: nobody, and nothing is looked at."""
        ...


class Unheld:
    """Holds nothing."""

    async def between_calls(self, call: CallContext, body: Json) -> None:
        del call, body

    def risk_watch(self, call: CallContext) -> RiskWatch | None:
        del call
        return None
