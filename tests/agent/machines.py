"""Real machines: a project's base snapshot, specs, and a local hypervisor."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from events.agent import AgentFinished, MachineSpec
from events.base import Value
from events.fresh import uuid7
from events.machine import InjectedFile, Limits
from events.project import CheckpointPolicy
from events.words import MachineType
from snapshots.capture import capture
from snapshots.directory import DirectoryChunkStore
from tests.agent.hub import Hub
from tests.harness.waiting import eventually

R = TypeVar("R", bound=Value)
SMALL = Limits(memory_mib=128, processes=64, disk_mib=64, cpu_milli=1000, deadline_s=60)


class Base:
    """A chunk store with one snapshot in it that machines start from."""

    def __init__(self, directory: Path, fill: Callable[[Path], None] | None = None) -> None:
        self.store = directory / "store"
        tree = directory / "tree"
        tree.mkdir(parents=True)
        (tree / "README").write_text("hello\n")
        if fill is not None:
            fill(tree)
        with DirectoryChunkStore(self.store) as store:
            self.digest = capture({"workspace": tree}, store).digest

    def spec(
        self,
        goal: str,
        url: str,
        *,
        machine_id: UUID | None = None,
        epoch: int = 1,
        files: tuple[InjectedFile, ...] = (),
        env: Mapping[str, str] | None = None,
        limits: Limits = SMALL,
        policy: CheckpointPolicy | None = None,
        deadline_in_s: float = 60.0,
        creds: str = "",
    ) -> MachineSpec:
        return MachineSpec(
            project="webshop",
            machine_id=machine_id or uuid7(),
            epoch=epoch,
            machine_type=MachineType.SHELL,
            goal=goal,
            snapshot=self.digest,
            parent_checkpoint_id=uuid7(),
            files=files,
            env=dict(env or {}),
            limits=limits,
            policy=policy or CheckpointPolicy(),
            deadline_in_s=deadline_in_s,
            nats_url=url,
            nats_creds=creds,
            store=str(self.store),
        )


async def report(hub: Hub, machine_id: UUID, kind: type[R], epoch: int = 1, timeout_s: float = 20.0) -> R:
    """Wait for the last report of this kind."""

    async def said() -> R | None:
        found = [each for each in await hub.reports(machine_id, epoch) if isinstance(each, kind)]
        return found[-1] if found else None

    found = await eventually(said, timeout_s=timeout_s, poll_s=0.03)
    assert found is not None
    return found


async def finished(hub: Hub, machine_id: UUID, epoch: int = 1, timeout_s: float = 20.0) -> AgentFinished:
    return await report(hub, machine_id, AgentFinished, epoch, timeout_s)
