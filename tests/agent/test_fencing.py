"""A machine with a real credential, and what its agent does when that is taken away."""

import asyncio

from hypervisors.local import LocalHypervisor, LocalSettings
from tests.agent.machines import Base
from tests.harness.waiting import eventually
from tests.hypervisors.processes import of_machine
from tests.security.conftest import Hub, hub

__all__ = ["hub"]


async def test_an_agent_works_with_its_scoped_credential_and_ends_itself_when_it_is_revoked(hub: Hub) -> None:
    base = Base(hub.server.directory.parent / "base")
    async with LocalHypervisor(LocalSettings(hub.server.directory.parent / "machines")) as hypervisor:
        spec = base.spec("echo up; trap '' INT TERM; sleep 1000", hub.server.url)
        made = await hub.credentials.machine("webshop", spec.machine_id, 1, 600)
        heard: list[bytes] = []

        async def hear(message: object) -> None:
            heard.append(getattr(message, "data", b""))
            await asyncio.sleep(0)

        await hub.bus.nc.subscribe(f"out.webshop.{spec.machine_id}.1", cb=hear)
        await hub.bus.nc.flush()
        await hypervisor.create(spec.model_copy(update={"nats_creds": made.creds}))
        await eventually(lambda: any(b'"up"' in data for data in heard))
        await hub.credentials.revoke("webshop", spec.machine_id, 1, "fenced")
        gone = await anext(aiter(hypervisor.exits()))
        assert (gone.machine_id, gone.exit_code) == (spec.machine_id, 3)
        assert of_machine(spec.machine_id) == []
        await hypervisor.destroy(spec.machine_id, 1)
