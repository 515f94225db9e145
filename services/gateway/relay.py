"""An answer on its way: every byte is passed on as it came, and read for its usage and its tool calls beside."""

from services.gateway.context import RiskWatch
from services.gateway.reply import Reply
from services.gateway.sse import SseReader
from services.gateway.usage import Meter


class Relay:
    """Passes a stream to a client.

    Bytes are only held back before the end of a tool call that somebody looks at, and, where the last chunk is ours and not
    the client's, until their event is whole.
    """

    def __init__(self, meter: Meter, reply: Reply, watch: RiskWatch | None, *, whole_events: bool) -> None:
        self._meter = meter
        self._reply = reply
        self._watch = watch
        self._whole_events = whole_events
        self._reader = SseReader()
        self._kept = b""
        self._sent = 0
        self.received = 0
        """Bytes."""

    @property
    def is_amid_event(self) -> bool:
        """Whether the client has got a part of an event."""
        return self._sent > self._reader.position

    async def feed(self, chunk: bytes) -> None:
        """Pass a chunk on.

        Raises:
            ClientGone: Nobody hears it; `read` reads the rest.
        """
        piece = self._kept + chunk if self._kept else chunk
        base = self.received - len(self._kept)
        self.received += len(chunk)
        out: list[bytes] = []
        at = base
        events = iter(self._reader.feed(chunk))
        try:
            for event in events:
                tools = self._meter.on_event(event.data)
                if tools and self._watch is not None:
                    before = max(at, event.start)
                    out.append(piece[at - base : before - base])
                    at = before
                    await self._write(out)
                    for name, given in tools:
                        await self._watch.on_tool(name, given)
                if self._whole_events and self._meter.drops(event.data):
                    out.append(piece[at - base : event.start - base])
                    at = event.end
        finally:
            for unheard in events:  # whoever asked has gone meanwhile: what came along is counted all the same
                self._meter.on_event(unheard.data)
        end = max(at, self._reader.position) if self._whole_events else self.received
        out.append(piece[at - base : end - base])
        self._kept = piece[end - base :]
        await self._write(out)
        self._sent = end

    def read(self, chunk: bytes) -> None:
        """Read a chunk that nobody gets."""
        self.received += len(chunk)
        for event in self._reader.feed(chunk):
            self._meter.on_event(event.data)

    async def finish(self) -> None:
        """Pass on what was kept of an event that never became whole."""
        kept, self._kept = self._kept, b""
        await self._write([kept])

    async def _write(self, out: list[bytes]) -> None:
        piece = b"".join(out)
        out.clear()
        if piece:
            await self._reply.write(piece)
