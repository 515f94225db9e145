"""Reading the log without a consumer: the events of one aggregate, by direct get."""

import asyncio
from collections.abc import Sequence

import orjson

from events.address import Address
from services.kit.errors import Transient
from services.kit.message import RawMessage, from_direct
from services.kit.wire import API_TIMEOUT_S, ApiError, OnReply, Reply, Wire, parse_headers

PAGE_MESSAGES = 1_000


class Reader:
    """Direct gets on one stream."""

    def __init__(self, wire: Wire, stream: str) -> None:
        self._wire = wire
        self._subject = f"$JS.API.DIRECT.GET.{stream}".encode()
        self._stream = stream

    async def read(self, address: Address, after: int, limit: int | None = None) -> list[RawMessage]:
        """Return an aggregate's messages after a seq, oldest first; all of them, or at most `limit`.

        The server finds an aggregate's last message by its index, and that nothing came after an old one only by
        looking at all of its block: ten times as long, and nothing is appended meanwhile.
        """
        if after:
            last = await self.last(address.filter())
            if last is None or last.seq <= after:
                return []
        return await self.read_filter(address.filter(), after, limit)

    async def read_filter(self, subject_filter: str, after: int, limit: int | None = None) -> list[RawMessage]:
        messages: list[RawMessage] = []
        while limit is None or len(messages) < limit:
            page = PAGE_MESSAGES if limit is None else min(PAGE_MESSAGES, limit - len(messages))
            got, more = await self._page(
                {"seq": after + 1, "batch": page, "next_by_subj": subject_filter}, may_have_more=limit is None
            )
            messages += got
            if not more or not got:
                break
            after = got[-1].seq
        return messages

    async def last(self, subject_filter: str) -> RawMessage | None:
        got, _ = await self._page({"last_by_subj": subject_filter}, single=True)
        return got[0] if got else None

    async def get(self, seq: int) -> RawMessage | None:
        got, _ = await self._page({"seq": seq}, single=True)
        return got[0] if got else None

    async def _page(
        self, request: dict[str, object], *, single: bool = False, may_have_more: bool = False
    ) -> tuple[Sequence[RawMessage], bool]:
        """Ask once and gather until the server says it was all. Returns whether more match."""
        replies: list[Reply] = []
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()

        def on_reply(reply: Reply | None) -> bool:
            if reply is None or reply.status or single:
                if not future.done():
                    future.set_result(reply)
                return False
            replies.append(reply)
            return True

        token, inbox = self._wire.expect(_of_server(on_reply))
        body = orjson.dumps(request)
        try:
            if not self._wire.client.send_now(b"PUB %b %b %d\r\n%b\r\n" % (self._subject, inbox, len(body), body)):
                raise Transient(f"not connected to NATS: {self._stream} was not read")
            async with asyncio.timeout(API_TIMEOUT_S):
                end = await future
        except TimeoutError:
            raise Transient(f"{self._stream} did not answer a read within {API_TIMEOUT_S} s") from None
        finally:
            self._wire.forget(token)
        if end is None:
            raise Transient(f"the connection was lost while {self._stream} was read")
        if end.status in {0, 204, 404}:
            if single and not end.status:
                replies.append(end)
            pending = parse_headers(end.header).get("Nats-Num-Pending", "0") if may_have_more else "0"
            return [from_direct(reply) for reply in replies], pending != "0"
        if end.status == 503:
            raise Transient(f"nobody answers reads of {self._stream}: it does not exist or JetStream is not ready")
        raise ApiError(end.status, 0, end.header[9:].split(b"\r\n")[0].decode("utf-8", "replace"))


def _of_server(on_reply: OnReply) -> OnReply:
    """Return what hears only answers to reads: whatever else somebody publishes to an inbox is passed over."""

    def hear(reply: Reply | None) -> bool:
        if reply is not None and not reply.status and b"Nats-Sequence" not in reply.header:
            return True
        return on_reply(reply)

    return hear
