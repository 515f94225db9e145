"""The one way out of a sandbox: a listening socket in its network, whose other side is the gateway and nothing else.

A sandbox has a network namespace of its own with a loopback and no more. A socket belongs to the namespace it was made
in, whoever holds its descriptor: a child of ours enters the namespace, listens there, hands us the descriptor and ends.
What connects to it from inside is accepted here, outside, and its bytes are carried to the gateway. The address is ours
alone to choose, so no file, variable or base URL in the sandbox leads anywhere else.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from agent.runners.port import CannotRun

PORT_BACKLOG = 128
CONNECTIONS_MAX = 64
"""At once; more wait in the kernel's queue, and then for their turn."""
CHUNK_BYTES = 65_536
CONNECT_DEADLINE_S = 15.0
"""A gateway that restarts is back before; then the connection is closed, and whoever made it sees that."""
CONNECT_RETRY_S = 0.2
ENTER_DEADLINE_S = 5.0
ARRIVE_DEADLINE_S = 20.0
"""For the launcher to come to the program: milliseconds, seconds on a host with too much to do."""

_NS_GET_USERNS = 0xB701
_CREDENTIALS = struct.Struct("3i")
_libc = ctypes.CDLL(None, use_errno=True)

log = structlog.get_logger()


class NoWayOut(CannotRun):
    """The sandbox's network could not be entered, or the gateway's address is none; the program is not started."""


class Gate:
    """Holds a program back until its way out stands: it says that it is there, and waits for a byte."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._ours.setblocking(False)

    async def arrived(self) -> int | None:
        """Wait for the program; return its process id as we see it. None: it ended before.

        Raises:
            NoWayOut: It did not come in time.
        """
        self.theirs.close()
        try:
            async with asyncio.timeout(ARRIVE_DEADLINE_S):
                return await self._hear()
        except TimeoutError as reason:
            raise NoWayOut(f"the program did not begin within {ARRIVE_DEADLINE_S} s") from reason

    async def _hear(self) -> int | None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                said, ancillary, _, _ = self._ours.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size))
            except BlockingIOError:
                ready: asyncio.Future[None] = loop.create_future()
                loop.add_reader(self._ours, lambda waiting=ready: waiting.done() or waiting.set_result(None))
                try:
                    await ready
                finally:
                    loop.remove_reader(self._ours)
                continue
            pids = [_CREDENTIALS.unpack(data)[0] for _, kind, data in ancillary if kind == socket.SCM_CREDENTIALS]
            return pids[0] if said and pids else None

    def open(self) -> None:
        with contextlib.suppress(OSError):
            self._ours.send(b"\n")

    def close(self) -> None:
        self.theirs.close()
        self._ours.close()


class Relay:
    """Carries bytes between what is accepted here and the gateway, in both directions, until it is closed."""

    def __init__(self, listener: socket.socket, host: str, port: int) -> None:
        self._listener, self._host, self._port = listener, host, port
        self._room = asyncio.Semaphore(CONNECTIONS_MAX)
        self.sent_bytes = 0
        """Out of the sandbox."""
        self.received_bytes = 0

    @property
    def carried_bytes(self) -> int:
        """What went out of the sandbox and came in, both together."""
        return self.sent_bytes + self.received_bytes

    async def run(self) -> None:
        """Accept for as long as this is not cancelled; whatever is open then is closed."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        async with asyncio.TaskGroup() as group:
            while True:
                await self._room.acquire()
                try:
                    accepted, _ = await loop.sock_accept(self._listener)
                except OSError as reason:  # a connection that ended before it was accepted, or no descriptor is left
                    self._room.release()
                    log.info("way_out.not_accepted", reason=str(reason))
                    await asyncio.sleep(CONNECT_RETRY_S)
                    continue
                except BaseException:
                    self._room.release()
                    raise
                group.create_task(self._serve(accepted))

    async def _serve(self, inside: socket.socket) -> None:
        try:
            with inside:
                inside.setblocking(False)
                outside = await self._connect()
                if outside is None:
                    return
                with outside:
                    await self._carry(inside, outside)
        except Exception:
            log.exception("way_out.connection_failed")  # one connection's trouble; the others go on
        finally:
            self._room.release()

    async def _connect(self) -> socket.socket | None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + CONNECT_DEADLINE_S
        while True:
            try:
                async with asyncio.timeout_at(until_s):
                    return await _connected(self._host, self._port)
            except (OSError, TimeoutError) as reason:
                if loop.time() + CONNECT_RETRY_S > until_s:
                    log.warning("gateway.not_reached", host=self._host, port=self._port, reason=str(reason))
                    return None
            await asyncio.sleep(CONNECT_RETRY_S)

    async def _carry(self, inside: socket.socket, outside: socket.socket) -> None:
        """Until both directions are over, or one breaks: the other side must not wait for what never comes."""
        with contextlib.suppress(OSError, BaseExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(inside, outside))
                group.create_task(self._receive(outside, inside))

    async def _send(self, inside: socket.socket, outside: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(inside, CHUNK_BYTES):
            await loop.sock_sendall(outside, data)
            self.sent_bytes += len(data)
        outside.shutdown(socket.SHUT_WR)

    async def _receive(self, outside: socket.socket, inside: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(outside, CHUNK_BYTES):
            await loop.sock_sendall(inside, data)
            self.received_bytes += len(data)
        inside.shutdown(socket.SHUT_WR)


@contextlib.asynccontextmanager
async def way_out(listener: socket.socket, gateway_url: str) -> AsyncGenerator[Relay]:
    """Lead what connects to `listener` to the gateway while the body runs.

    Raises:
        NoWayOut: The address is not `http://host:port`.
    """
    with listener:
        host, port = address_of(gateway_url)
        relay = Relay(listener, host, port)
        running = asyncio.create_task(relay.run())
        try:
            yield relay
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            log.info("way_out.closed", sent_bytes=relay.sent_bytes, received_bytes=relay.received_bytes)


def address_of(gateway_url: str) -> tuple[str, int]:
    """Return host and port.

    Raises:
        NoWayOut: It is not `http://host:port`.
    """
    try:
        parts = urlsplit(gateway_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, None
    if parts is None or parts.scheme != "http" or not host or port is None:
        raise NoWayOut(f"gateway_url {gateway_url[:200]!r}: http://host:port is needed")
    return host, port


def listen_beside(pid: int, port: int) -> socket.socket:
    """Make a listening socket on 127.0.0.1 in the network of a process of ours. Blocks for some milliseconds.

    Raises:
        NoWayOut: Its network cannot be entered, or the port is taken there.
    """
    try:
        network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as reason:
        raise NoWayOut(f"the program's network cannot be seen: {reason}") from reason
    try:
        if _is_ours(network, "net"):
            return _listener(port)
        users = fcntl.ioctl(network, _NS_GET_USERNS)
        try:
            return _listen_in(network, None if _is_ours(users, "user") else users, port)
        finally:
            os.close(users)
    except OSError as reason:
        raise NoWayOut(f"no socket could be made in the program's network: {reason}") from reason
    finally:
        os.close(network)


def _listen_in(network: int, users: int | None, port: int) -> socket.socket:
    """Fork, since a namespace of users can be entered only by a process with one thread; the child does nothing else."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            pid = os.fork()
            if pid == 0:
                _hand_over(theirs, network, users, port)
        try:
            ours.settimeout(ENTER_DEADLINE_S)
            said, descriptors, _, _ = socket.recv_fds(ours, 500, 1)
        finally:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
    if not descriptors:
        raise NoWayOut(f"no socket could be made in the program's network: {said.decode(errors='replace')}")
    return socket.socket(fileno=descriptors[0])


def _hand_over(to: socket.socket, network: int, users: int | None, port: int) -> None:
    """The child's whole life."""
    try:
        if users is not None:
            _enter(users)
        _enter(network)
        with _listener(port) as listener:
            socket.send_fds(to, [b"here"], [listener.fileno()])
    except BaseException as reason:  # noqa: BLE001 -- the edge of a forked process: nothing may return into the agent
        with contextlib.suppress(OSError):
            to.send(str(reason).encode()[:500])
    finally:
        os._exit(0)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


def _is_ours(namespace: int, kind: str) -> bool:
    there, here = os.fstat(namespace), Path(f"/proc/self/ns/{kind}").stat()
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(PORT_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


async def _connected(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, address = found[0]
    outside = socket.socket(family, kind, protocol)
    try:
        outside.setblocking(False)
        outside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(outside, address)
    except BaseException:
        outside.close()
        raise
    return outside
