"""The hub as an agent meets it: the streams, what arrived in them, and commands."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast
from uuid import UUID

import nats
from nats.aio.client import Client
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from events.agent import REPORTS
from events.base import Value


class Hub:
    """Reads what agents said of one machine; `cmd` tells them."""

    def __init__(self, nc: Client, project: str) -> None:
        self.nc, self.project = nc, project
        self.js: JetStreamContext = nc.jetstream()

    async def reports(self, machine_id: UUID, epoch: int = 1) -> list[Value]:
        found: list[Value] = []
        for subject, data in await self._messages("IN", f"from.{self.project}.{machine_id}.{epoch}.>"):
            found.append(REPORTS[subject.rpartition(".")[2]].model_validate_json(data))
        return found

    async def lines(self, machine_id: UUID, epoch: int = 1) -> list[dict[str, str | int]]:
        found: list[dict[str, str | int]] = []
        for _, data in await self._messages("OUTPUT", f"out.{self.project}.{machine_id}.{epoch}"):
            message = json.loads(data)
            found += message if isinstance(message, list) else [message]
        return found

    async def text(self, machine_id: UUID, epoch: int = 1, source: str = "stdout") -> list[str]:
        return [cast("str", line["t"]) for line in await self.lines(machine_id, epoch) if line["s"] == source]

    async def command(
        self, machine_id: UUID, name: str, body: Value, epoch: int = 1, deadline_s: float = 10.0
    ) -> dict[str, object]:
        subject = f"cmd.{self.project}.{machine_id}.{epoch}.{name}"
        answer = await self.nc.request(subject, body.model_dump_json().encode(), timeout=deadline_s)
        return json.loads(answer.data)

    async def _messages(self, stream: str, subject: str) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        seq = 0
        while True:
            try:
                message = await self.js.get_msg(stream, seq=seq + 1, subject=subject, direct=True, next=True)
            except NotFoundError:
                return found
            assert message.seq is not None
            assert message.subject is not None
            seq = message.seq
            found.append((message.subject, message.data or b""))


@asynccontextmanager
async def hub_of(url: str, project: str = "webshop") -> AsyncGenerator[Hub]:
    """Connect to a server and make the two streams that agents write to."""
    nc = await nats.connect(url)
    try:
        js = nc.jetstream()
        await js.add_stream(name="IN", subjects=["from.>"], allow_direct=True)
        await js.add_stream(name="OUTPUT", subjects=["out.>"], allow_direct=True)
        yield Hub(nc, project)
    finally:
        await nc.close()
