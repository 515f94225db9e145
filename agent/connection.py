"""The agent's one NATS connection: its own credential, its own inbox, and it outlives whatever is sent to it."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from nats.aio.client import Client, RawCredentials
from nats.aio.msg import Msg
from nats.errors import Error
from nats.js.client import JetStreamContext

RECONNECT_WAIT_S = 0.2
CONNECT_DEADLINE_S = 5.0
REFUSED_S = 3.0
"""A credential refused for this long, without a connection in between, has been revoked."""
PENDING_BYTES_MAX = 2 * 1024 * 1024

log = structlog.get_logger()


class _Client(Client):
    """nats-py's read loop ends for good on a subject or header that is not UTF-8; here such a message is left out."""

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            subject.decode()
            reply.decode()
        except UnicodeDecodeError:
            log.warning("message.left_out", reason="its subject is not UTF-8", subject=subject[:200])
            return
        await super()._process_msg(sid, subject, reply, data, headers)


class Connection:
    """Connects in the background for as long as it takes, and again whenever the hub comes back."""

    def __init__(self, url: str, creds: str, machine_id: str) -> None:
        self._url, self._creds, self._machine_id = url, creds, machine_id
        self._client = _Client()
        self._connected = asyncio.Event()
        self._closed = asyncio.Event()
        self._lost_at_s: float | None = None
        self._refused_at_s: float | None = None
        self.refused = asyncio.Event()
        """Set when the hub goes on refusing the credential: this incarnation is fenced."""

    @property
    def client(self) -> Client:
        return self._client

    @property
    def stream(self) -> JetStreamContext:
        return self._client.jetstream()

    @property
    def is_connected(self) -> bool:
        return self._connected.is_set()

    def lost_for_s(self) -> float:
        """How long there has been no hub; 0 while there is one."""
        return 0.0 if self._lost_at_s is None else asyncio.get_running_loop().time() - self._lost_at_s

    async def connected(self) -> None:
        await self._connected.wait()

    async def keep_open(self, subject: str, on_command: Callable[[Msg], Awaitable[None]]) -> None:
        """Connect, however often it takes, and listen for commands; ends only when the credential is refused.

        nats-py comes back by itself after a lost connection, but closes for good on an error that the server says.
        """
        self._on_lost()
        while not self.refused.is_set():
            try:
                await self._connect()
                await self._client.subscribe(subject, cb=on_command)
                self._on_connected()
                await self._closed.wait()
                self._note(self._client.last_error)
            except (Error, OSError, TimeoutError) as reason:
                self._note(reason)
            self._on_lost()
            await self._client.close()
            await asyncio.sleep(RECONNECT_WAIT_S)
            self._client = _Client()

    async def close(self) -> None:
        await self._client.close()

    async def _connect(self) -> None:
        self._closed.clear()
        async with asyncio.timeout(CONNECT_DEADLINE_S):
            await self._client.connect(
                self._url,
                name=f"agent {self._machine_id}",
                user_credentials=RawCredentials(self._creds) if self._creds else None,
                inbox_prefix=f"_INBOX_{self._machine_id}",
                reconnect_time_wait=RECONNECT_WAIT_S,  # pyright: ignore[reportArgumentType] -- annotated int, used as float
                max_reconnect_attempts=-1,
                ping_interval=10,
                pending_size=PENDING_BYTES_MAX,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_reconnected,
                closed_cb=self._on_closed,
            )

    def _note(self, problem: Exception | None) -> None:
        """Tell a hub that is away from one that does not want us; a restarting one may refuse for a moment."""
        words = str(problem or "").lower()
        log.info("hub.not_reached", reason=words or repr(problem))
        if "authorization" in words or "authentication" in words:
            now_s = asyncio.get_running_loop().time()
            self._refused_at_s = self._refused_at_s or now_s
            if now_s - self._refused_at_s >= REFUSED_S:
                self.refused.set()

    async def _on_error(self, problem: Exception) -> None:
        self._note(problem)

    async def _on_disconnected(self) -> None:
        self._on_lost()

    async def _on_reconnected(self) -> None:
        self._on_connected()

    async def _on_closed(self) -> None:
        self._closed.set()

    def _on_lost(self) -> None:
        self._connected.clear()
        if self._lost_at_s is None:
            self._lost_at_s = asyncio.get_running_loop().time()

    def _on_connected(self) -> None:
        self._lost_at_s = self._refused_at_s = None
        self._connected.set()
