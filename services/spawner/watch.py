"""What the spawner remembers of a machine beside the log. All of it may be lost: it is found out anew."""

import asyncio
import time
from dataclasses import dataclass, field

from domain.overview import Known
from services.spawner.saga import Spawn


@dataclass(slots=True, eq=False)
class Watch:
    """One machine under the eyes of this process; times are of the monotonic clock."""

    known: Known
    busy: bool = False
    """A task is looking after it."""
    touched: bool = False
    """Something happened since that task looked."""
    look_at: float = 0.0
    """When to look again even if nothing happens."""
    failures: int = 0
    failing_since: float | None = None
    spawn: Spawn | None = None
    seen_epoch: int = 0
    seen_at: float = field(default_factory=time.monotonic)
    """The last beat or report of `seen_epoch`, or when we began to listen."""
    missing_since: float | None = None
    """Since when its incarnation is known not to run on the host."""
    missing_epoch: int = 0
    missing_reason: str = ""
    booted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no MachineBooted is about to be said."""
    made_at: float = 0.0
    """When this process last had the host make its incarnation."""
    told_at: float = 0.0
    timer: tuple[str, float] | None = None

    def see(self, epoch: int) -> None:
        """A sign of life."""
        if epoch == self.known.machine.epoch:
            self.seen_epoch = epoch
            self.seen_at = time.monotonic()

    def miss(self, epoch: int, reason: str) -> None:
        """The host says that this incarnation does not run."""
        if epoch == self.known.machine.epoch and self.missing_epoch != epoch:
            self.missing_epoch, self.missing_since, self.missing_reason = epoch, time.monotonic(), reason

    @property
    def is_gone(self) -> bool:
        return self.missing_since is not None and self.missing_epoch == self.known.machine.epoch

    def gone_for_s(self) -> float:
        """How long the incarnation is known to be gone; 0 while it is not."""
        return time.monotonic() - self.missing_since if self.is_gone and self.missing_since is not None else 0.0
