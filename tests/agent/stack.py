"""One server, one hub and one local hypervisor for the tests of a module; every machine has its own id."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.stack.nats import EmbeddedNats, NatsConfig
from events.agent import AgentFinished, MachineSpec
from hypervisors.local import LocalHypervisor, LocalSettings
from tests.agent.hub import Hub, hub_of
from tests.agent.machines import Base, finished


@dataclass(frozen=True, slots=True)
class Stack:
    server: EmbeddedNats
    hub: Hub
    hypervisor: LocalHypervisor
    base: Base
    directory: Path

    async def run(self, spec: MachineSpec, timeout_s: float = 20.0) -> AgentFinished:
        """Run a machine to its end and take it down."""
        await self.hypervisor.create(spec)
        try:
            return await finished(self.hub, spec.machine_id, spec.epoch, timeout_s)
        finally:
            await self.hypervisor.destroy(spec.machine_id, spec.epoch)

    async def goal(self, goal: str, timeout_s: float = 20.0) -> tuple[AgentFinished, list[str]]:
        """Run a goal; returns how it ended and its standard output."""
        spec = self.base.spec(goal, self.server.url)
        end = await self.run(spec, timeout_s)
        return end, await self.hub.text(spec.machine_id)


@asynccontextmanager
async def stack_in(
    directory: Path, *, use_cgroups: bool = True, agent_options: str = "{}", port: int | None = None
) -> AsyncGenerator[Stack]:
    settings = LocalSettings(directory / "data", use_cgroups=use_cgroups, agent_options=agent_options)
    base = Base(directory / "base")
    async with (
        EmbeddedNats(directory / "nats", NatsConfig(port=port or -1)) as server,
        hub_of(server.url) as hub,
        LocalHypervisor(settings) as hypervisor,
    ):
        yield Stack(server, hub, hypervisor, base, directory)
