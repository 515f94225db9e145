"""A warm process that forks one agent per machine: everything an agent needs is imported once, here.

Started by a hypervisor driver with one end of a socket pair; its frames are four bytes of length, big-endian, and
JSON. It has one thread and no event loop, so that forking is safe. It ends when the socket closes, and every agent ends
with it (parent-death signal), so a driver killed in any way leaves nothing running.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
from types import FrameType
from typing import NoReturn, TypedDict

from agent import linux, main

FRAME_BYTES_MAX = 128 * 1024 * 1024


class Asked(TypedDict, total=False):
    """A frame from the driver."""

    op: str
    key: str
    spec: object
    options: object


def _noted(_number: int, _frame: FrameType | None) -> None:
    """A handler must be there for the wake-up pipe to be written to."""


class Zygote:
    """The loop: asked to fork and to kill, says who came and who went."""

    def __init__(self, driver: socket.socket) -> None:
        self._driver = driver
        self._keys: dict[int, str] = {}
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> None:
        """Serve until the driver's end of the socket closes."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _noted)
        gc.collect()
        gc.freeze()
        self._say({"op": "ready", "pid": os.getpid()})
        while True:
            ready, _, _ = select.select([self._driver, self._wake_read], [], [])
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
                self._reap()
            if self._driver in ready and not self._serve():
                return

    def _serve(self) -> bool:
        size = self._receive(4)
        if size is None:
            return False
        size_bytes = int.from_bytes(size, "big")
        if size_bytes > FRAME_BYTES_MAX:
            raise ValueError(f"a frame of {size_bytes} bytes; at most {FRAME_BYTES_MAX}")
        body = self._receive(size_bytes)
        if body is None:
            return False
        asked: Asked = json.loads(body)
        match asked.get("op"):
            case "fork":
                self._fork(asked.get("key", ""), json.dumps(asked.get("spec")), json.dumps(asked.get("options") or {}))
            case "kill":
                self._kill(asked.get("key", ""))
            case op:
                raise ValueError(f"unknown frame {op!r}")
        return True

    def _fork(self, key: str, spec: str, options: str) -> None:
        """Fork, unless there is one already: who got no answer in time asks again, and both frames may be waiting."""
        for pid, known in self._keys.items():
            if known == key:
                self._say({"op": "forked", "key": key, "pid": pid})
                return
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as reason:
            self._say({"op": "failed", "key": key, "reason": str(reason)})
            return
        if pid == 0:
            self._become_agent(parent, spec, options)
        self._keys[pid] = key
        self._say({"op": "forked", "key": key, "pid": pid})

    def _become_agent(self, parent: int, spec: str, options: str) -> NoReturn:
        code = 70
        try:
            linux.die_with_parent(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (self._wake_read, self._wake_write):
                os.close(descriptor)
            self._driver.close()
            code = main.run(spec, options)
        except BaseException:  # noqa: BLE001 -- the edge of a forked process: nothing may return into the zygote's loop
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _kill(self, key: str) -> None:
        for pid, known in self._keys.items():
            if known == key:
                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self._keys:
            pid, status, used = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            key = self._keys.pop(pid, None)
            if key is not None:
                exit_code = os.waitstatus_to_exitcode(status)
                self._say({"op": "exited", "key": key, "exit_code": exit_code, "cpu_s": used.ru_utime + used.ru_stime})

    def _receive(self, size_bytes: int) -> bytes | None:
        parts: list[bytes] = []
        while size_bytes > 0:
            part = self._driver.recv(min(size_bytes, 1 << 20))
            if not part:
                return None
            parts.append(part)
            size_bytes -= len(part)
        return b"".join(parts)

    def _say(self, frame: dict[str, str | int | float]) -> None:
        data = json.dumps(frame).encode()
        self._driver.sendall(len(data).to_bytes(4, "big") + data)


def serve(descriptor: int, *, die_with_parent: bool) -> None:
    """Run the zygote on this socket until its other end closes."""
    main.configure_logging()
    if die_with_parent:
        linux.die_with_parent(os.getppid())
    with socket.socket(fileno=descriptor) as driver:
        driver.set_inheritable(False)
        try:
            Zygote(driver).run()
        except (BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    serve(int(sys.argv[1]), die_with_parent=sys.argv[2] == "1")
