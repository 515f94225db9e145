"""The port to whatever makes isolated machines. A driver is one package beside this file."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from events.agent import MachineSpec

__all__ = ["Exit", "Hypervisor", "HypervisorError", "MachineSpec", "Refused", "SelfTest", "Unreachable", "Usage", "Vm"]


class HypervisorError(Exception):
    """The base of what a driver raises."""


class Refused(HypervisorError):
    """The spec can never be met by this host; asking again gives the same answer."""


class Unreachable(HypervisorError):
    """The outcome is unknown; calling again with the same machine and epoch is safe."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What a host proved about itself. Not `ok`: nothing may be started on it; `problems` say why and what helps."""

    ok: bool
    node: str
    enforcement: str
    """What enforces which limit here, e.g. `cgroup v1: cpu memory pids; rlimits: cpu_time file_size open_files`."""
    problems: tuple[str, ...] = ()
    took_ms: int = 0


@dataclass(frozen=True, slots=True)
class Vm:
    """An incarnation as the host has it."""

    machine_id: UUID
    epoch: int
    project: str
    vm_id: str
    node: str
    running: bool
    """Whether its agent lives. What does not run is left over: look, then `destroy`."""
    enforcement: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """What an incarnation has used so far, or in all once it is over."""

    cpu_s: float = 0.0
    memory_byte_s: float = 0.0
    """Memory in use, summed over time: bytes times seconds."""
    memory_peak_bytes: int = 0
    wall_s: float = 0.0
    started_at: datetime | None = None
    """None: the host knows nothing of this incarnation."""
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """The agent of an incarnation is gone, and with it everything it ran. `destroy` is still to be called."""

    machine_id: UUID
    epoch: int
    exit_code: int
    """Of the agent's process; -N: ended by signal N. 0 is an agent that had reported its end."""
    reason: str


class Hypervisor(Protocol):
    """Every verb is idempotent by machine and epoch: a redelivered event must not boot a second machine."""

    name: str
    node: str

    async def self_test(self) -> SelfTest:
        """Prove on a real machine that the isolation holds. Until that has succeeded `create` refuses."""
        ...

    async def create(self, spec: MachineSpec) -> Vm:
        """Create and start an incarnation, or return the one there is, running or not.

        Raises:
            Refused: The spec can never be met here; the machine ends, the event is acknowledged.
            Unreachable: Outcome unknown; calling again is safe, the event is redelivered.
        """
        ...

    async def list(self) -> list[Vm]:
        """Return all that is on the host and ours, leftovers of an earlier run included."""
        ...

    async def destroy(self, machine_id: UUID, epoch: int) -> Usage:
        """Kill it with everything in it and remove every trace; return what it used, the same when asked again.

        Raises:
            Unreachable: It is not known to be gone; calling again is safe.
        """
        ...

    async def usage(self, machine_id: UUID, epoch: int) -> Usage: ...

    def exits(self) -> AsyncIterator[Exit]:
        """Yield each incarnation whose agent has gone, as it happens; one consumer. `list` is what cannot be missed."""
        ...
