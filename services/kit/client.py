"""A NATS client that hostile bytes cannot stop, with a raw lane beside the usual one.

nats-py's parser splits control lines by a regular expression whose white space includes vertical tab and form feed,
and decodes subjects as UTF-8. The server allows both in subjects, so one publish by anybody ends the read loop, or
makes it reconnect for ever. Here lines are split as the server splits them and odd bytes are escaped.
"""

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import structlog
from nats.aio.client import Client, Server
from nats.aio.msg import Msg
from nats.errors import Error, ProtocolError
from nats.protocol.parser import Parser

from services.kit.creds import Credentials

RECONNECT_DELAY_MAX_S = 1.0
PENDING_BYTES_MAX = 16 * 1024 * 1024
"""What may wait in memory to be sent, before publishes are refused."""

_STATUS = frozenset({"Status", "Description"})
"""Where nats-py keeps the server's inline status, among the sender's own headers."""

RawHandler: TypeAlias = Callable[[bytes, bytes, bytes, bytes], None]
"""Called with subject, reply, header block (empty: none) and payload, inside the read loop: it must not block."""

_log = cast("structlog.stdlib.BoundLogger", structlog.get_logger("nats"))


class WireParser(Parser):
    """Reads the protocol; raw subscriptions get their bytes without a task switch or header parsing."""

    def __init__(self, client: "SturdyClient") -> None:
        super().__init__(client)
        self._client = client

    def reset(self) -> None:
        self._rest = b""
        self._generation = getattr(self, "_generation", 0) + 1

    async def parse(self, data: bytes = b"") -> None:
        buffer = self._rest + data if self._rest else data
        generation = self._generation
        position, size = 0, len(buffer)
        raw = self._client.raw_handlers
        while position < size:
            end = buffer.find(b"\r\n", position)
            if end < 0:
                break
            first = buffer[position]
            if first in {0x48, 0x4D}:  # HMSG, MSG
                parts = buffer[position:end].split(b" ")
                try:
                    body = end + 2
                    next_position = body + int(parts[-1]) + 2
                    if next_position > size:
                        break
                    header_size = int(parts[-2]) if first == 0x48 else 0
                    sid = int(parts[2])
                    with_reply = len(parts) == (6 if first == 0x48 else 5)
                except (ValueError, IndexError) as error:
                    raise ProtocolError from error
                reply = parts[3] if with_reply else b""
                header = buffer[body : body + header_size]
                payload = buffer[body + header_size : next_position - 2]
                position = next_position
                handler = raw.get(sid)
                if handler is not None:
                    self._hand_over(handler, parts[1], reply, header, payload)
                else:
                    await self._client.deliver(sid, parts[1], reply, payload, header)
            else:
                line = buffer[position:end]
                position = end + 2
                await self._control(line)
            if self._generation != generation:
                return
        self._rest = buffer[position:]

    def _hand_over(self, handler: RawHandler, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        """As `SturdyClient.deliver`: an error here would end nats-py's read loop, silently and for good."""
        try:
            handler(subject, reply, header, payload)
        except Exception:  # noqa: BLE001 # the edge: whatever one message does, the next ones must come
            _log.exception("message.undeliverable", subject=subject[:200].decode("utf-8", "backslashreplace"))

    async def _control(self, line: bytes) -> None:
        if line.startswith(b"PING"):
            await self._client.answer_ping()
        elif line.startswith(b"PONG"):
            await self._client.take_pong()
        elif line.startswith(b"-ERR"):
            await self._client.take_error(line[4:].strip().decode("utf-8", "backslashreplace").lower())
        elif line.startswith(b"INFO"):
            await self._client.take_info(json.loads(line[4:]))
        elif not line.startswith(b"+OK"):
            raise ProtocolError


class SturdyClient(Client):
    """Reconnects for ever with jitter, survives odd bytes, reports its troubles as log lines."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = WireParser(self)
        self.raw_handlers: dict[int, RawHandler] = {}
        self.on_disconnect: list[Callable[[], None]] = []
        self.last_trouble = ""

    async def open(self, servers: list[str], *, name: str, creds: Path | None, inbox_prefix: str) -> None:
        """Connect once; from then on the connection is renewed for ever.

        Raises:
            nats.errors.Error, OSError: No server took us; make a new client and try again.
        """
        credentials = Credentials(creds) if creds else None
        if credentials is not None:
            credentials.read()
        await self.connect(
            servers,
            name=name,
            signature_cb=credentials.sign if credentials else None,
            user_jwt_cb=credentials.jwt if credentials else None,
            inbox_prefix=inbox_prefix,
            max_reconnect_attempts=1,
            connect_timeout=2,
            reconnect_time_wait=0,
            reconnect_to_server_handler=_pick,
            ping_interval=10,
            max_outstanding_pings=2,
            pending_size=PENDING_BYTES_MAX,
            error_cb=self._trouble,
            disconnected_cb=self._lost,
            reconnected_cb=_regained,
        )
        self.options["max_reconnect_attempts"] = -1

    async def close(self) -> None:
        """Close, in whatever state the connection is; nats-py fails where it is lost and something waits to be sent."""
        if not self.is_connected:
            self._pending, self._pending_data_size = [], 0
        await super().close()

    async def subscribe_raw(self, subject: str, handler: RawHandler, queue: str = "") -> int:
        """Have `handler` called for every message on `subject`; it survives reconnects. Returns its id.

        Subscribers of one `queue` share the messages.
        """
        subscription = await self.subscribe(subject, queue=queue, cb=_nobody)
        sid: int = subscription._id  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # no public name
        self.raw_handlers[sid] = handler
        return sid

    async def unsubscribe_raw(self, sid: int) -> None:
        self.raw_handlers.pop(sid, None)
        subscription = self._subs.get(sid)
        if subscription is not None and not self.is_closed:
            await subscription.unsubscribe()

    async def send(self, command: bytes) -> None:
        """Send protocol bytes now, or in their turn when others wait. Not while disconnected: ask `is_connected`."""
        transport = self._transport
        if self._pending or transport is None:
            await self._send_command(command)
            await self._flush_pending()
        else:
            transport.write(command)

    def send_now(self, command: bytes) -> bool:
        """Send protocol bytes without waiting; False: not connected, nothing was sent."""
        transport = self._transport
        if not self.is_connected or transport is None:
            return False
        try:
            if self._pending:
                transport.writelines(self._pending[:])
                self._pending = []
                self._pending_data_size = 0
            transport.write(command)
        except RuntimeError:  # uvloop's word for a transport that has been closed; the reader will notice in a moment
            return False
        return True

    async def deliver(self, sid: int, subject: bytes, reply: bytes, payload: bytes, header: bytes) -> None:
        """Hand a message to its subscription; one that cannot be handed over is logged, the loop goes on."""
        try:
            await self._process_msg(sid, subject, reply, payload, header)
        except Exception:  # noqa: BLE001 # the edge: whatever one message does, the next ones must come
            _log.exception("message.undeliverable", subject=subject[:200].decode("utf-8", "backslashreplace"))

    async def answer_ping(self) -> None:
        await self._process_ping()

    async def take_pong(self) -> None:
        await self._process_pong()

    async def take_info(self, info: dict[str, Any]) -> None:
        await self._process_info(info)

    async def take_error(self, text: str) -> None:
        await self._process_err(text)

    async def _process_err(self, err_msg: str) -> None:
        """Reconnect where nats-py would close for good: an expired credential may have been renewed in its file."""
        error = Error(f"nats: {err_msg.strip(chr(39))}")
        self._err = error
        if "permissions violation" in err_msg:
            await self._trouble(error)
        else:
            await self._process_op_err(error)

    async def _process_op_err(self, e: Exception) -> None:
        if not (self.is_closed or self.is_reconnecting):
            await self._trouble(e)
        await super()._process_op_err(e)

    async def _attempt_reconnect(self) -> None:
        """Try for ever; nats-py gives up silently at an error that it does not expect."""
        while True:
            try:
                await super()._attempt_reconnect()
            except Exception:  # noqa: BLE001 # the edge: without this task the connection would be gone for good
                _log.exception("bus.reconnect_failed")
                await asyncio.sleep(RECONNECT_DELAY_MAX_S)
            else:
                return

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Mapping[str, str] | None
    ) -> Msg:
        """A stored message never carries a status of the server's, so one that it has is its sender's invention.

        nats-py would take it for the end of a pull: the message would never be heard, or nothing after it.
        """
        if headers and reply.startswith(b"$JS.ACK."):
            headers = {name: value for name, value in headers.items() if name not in _STATUS}
        return Msg(
            subject=subject.decode("utf-8", "backslashreplace"),
            reply=reply.decode("utf-8", "backslashreplace"),
            data=data,
            headers=dict(headers) if headers else None,
            _client=self,
            _sid=sid,
        )

    async def _trouble(self, error: Exception) -> None:
        self.last_trouble = str(error) or type(error).__name__
        if isinstance(error, OSError):
            _log.debug("bus.unreachable", error=self.last_trouble)
        else:
            _log.warning("bus.troubled", error=self.last_trouble)

    async def _lost(self) -> None:
        for callback in self.on_disconnect:
            callback()


def _pick(servers: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
    """Choose where and when to reconnect: at once the first time, then with growing, jittered pauses."""
    server = random.choice(servers)  # noqa: S311 # spreads load, guards nothing
    if server.reconnects == 0:
        return server, 0.0
    return server, random.uniform(0.02, min(RECONNECT_DELAY_MAX_S, 0.02 * 2 ** min(server.reconnects, 10)))  # noqa: S311


async def _regained() -> None:
    _log.info("bus.reconnected")


async def _nobody(_message: Msg) -> None:
    """Stands in for the callback of a raw subscription, whose handler the parser calls itself."""
