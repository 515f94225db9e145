"""FastStream on the bus's own connection, with the settings that lose nothing.

The traps this avoids: FastStream's default policy terminates a message whose handler fails; a body that is not JSON
is terminated unseen; a missing consumer would be made anew with defaults; `declare` would reset the stream.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from faststream import AckPolicy
from faststream.message import StreamMessage
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.message import NatsMessage
from nats.aio.client import Client

if TYPE_CHECKING:
    from services.kit.bus import Bus

PULL_TIMEOUT_S = 1.0
"""How long a pull stays open: after a server restart it is asked again within this time."""
GRACEFUL_S = 15.0

__all__ = ["BusBroker", "NatsMessage", "subscribe"]


class BusBroker(NatsBroker):
    """Uses the connection of a bus and leaves it open."""

    def __init__(self, bus: "Bus") -> None:
        super().__init__(apply_types=False, graceful_timeout=GRACEFUL_S, logger=None)
        self._bus = bus

    async def _connect(self) -> Client:
        self.config.connect(self._bus.nc)
        return self._bus.nc

    async def stop(self, exc_type: Any = None, exc_val: Any = None, exc_tb: Any = None) -> None:  # noqa: ANN401
        self._connection = None
        await super().stop(exc_type, exc_val, exc_tb)


async def _undecoded(message: StreamMessage[Any]) -> StreamMessage[Any]:
    return message


def subscribe(app: BusBroker, stream: str, durable: str, consume: Callable[[NatsMessage], Awaitable[None]]) -> None:
    """Add one subscriber of a durable; several share its messages, each handles one at a time."""
    subscriber = app.subscriber(
        subject=durable,  # only a label: the durable has its own filters
        stream=JStream(stream, declare=False),
        durable=durable,
        pull_sub=PullSub(batch_size=1, timeout=PULL_TIMEOUT_S),
        ack_policy=AckPolicy.MANUAL,
        decoder=_undecoded,
    )
    subscriber(consume)
