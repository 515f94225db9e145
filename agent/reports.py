"""What the agent says to the hub's services: in order, each until it is acknowledged."""

import asyncio
import contextlib
from dataclasses import dataclass
from uuid import UUID

import structlog
from nats.errors import Error

from agent.connection import Connection
from events import address
from events.agent import AgentSpec
from events.base import Value
from events.fresh import uuid7

REPORTS_WAITING_MAX = 256
ACK_DEADLINE_S = 2.0
RETRY_MIN_S, RETRY_MAX_S = 0.05, 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Waiting:
    id: UUID
    subject: str
    body: bytes


class Reports:
    """A bounded queue and the task that empties it; the same report id is kept over all attempts."""

    def __init__(self, spec: AgentSpec, connection: Connection) -> None:
        self._spec, self._connection = spec, connection
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue(REPORTS_WAITING_MAX)

    async def say(self, service: str, report: Value) -> None:
        """Queue a report; waits when too many are unacknowledged already."""
        await self._waiting.put(self._made(service, report))

    def offer(self, service: str, report: Value) -> bool:
        """Queue a report that may be left out; False when it was."""
        if self._waiting.full():
            return False
        self._waiting.put_nowait(self._made(service, report))
        return True

    def _made(self, service: str, report: Value) -> _Waiting:
        spec = self._spec
        subject = address.report(spec.project, spec.machine_id, spec.epoch, service, type(report).__name__)
        return _Waiting(uuid7(), subject, report.model_dump_json(exclude_none=True).encode())

    async def run(self) -> None:
        while True:
            waiting = await self._waiting.get()
            try:
                await self._deliver(waiting)
            finally:
                self._waiting.task_done()

    async def all_acknowledged(self, deadline_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._waiting.join()
                return True
        return False

    async def _deliver(self, waiting: _Waiting) -> None:
        delay_s = RETRY_MIN_S
        while True:
            await self._connection.connected()
            try:
                headers = {"Nats-Msg-Id": str(waiting.id)}
                await self._connection.stream.publish(
                    waiting.subject, waiting.body, timeout=ACK_DEADLINE_S, headers=headers
                )
            except (Error, OSError, TimeoutError) as reason:
                log.info("report.not_acknowledged", subject=waiting.subject, reason=str(reason) or repr(reason))
                await asyncio.sleep(delay_s)
                delay_s = min(RETRY_MAX_S, delay_s * 2)
            else:
                return
