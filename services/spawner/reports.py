"""What agents report, turned into facts: the subject says who speaks, an epoch that is over is not heard."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import structlog

from domain import machine_commands as c
from domain.machine import decide, has_further_back_to_go
from domain.machine_state import Machine
from events import address as at
from events.agent import AgentFinished, AgentProgressed, AgentRegistered, WorkspaceRestored
from events.fresh import now
from events.machine import MachineEvent
from events.words import Outcome, Phase
from services.kit.delivery import Later, Report
from services.spawner.desk import Desk
from services.spawner.reconciler import Reconciler
from services.spawner.watch import Watch

BOOT_WAIT_S = 2.0
"""How long a report waits for the MachineBooted that is just being said; then it counts without."""
UNKNOWN_DELAY_S = 0.2
_log: structlog.stdlib.BoundLogger = structlog.get_logger("spawner")


class Reports:
    """The handler of `from.*.*.*.spawner.>`."""

    def __init__(self, desk: Desk, reconciler: Reconciler) -> None:
        self._desk = desk
        self._reconciler = reconciler

    async def handle(self, report: Report) -> None:
        address = at.machine(report.project, report.machine_id)
        watch = self._reconciler.find(address)
        if watch is None:
            _log.info("report.unheard", reason="the machine has ended or never was", report=report.type)
            return
        if report.epoch > watch.known.machine.epoch:
            await self._desk.refresh(watch.known)
            if report.epoch > watch.known.machine.epoch:
                raise Later(UNKNOWN_DELAY_S, f"epoch {report.epoch} is not in the log yet")
        if not watch.known.machine.hears(report.epoch):
            _log.info("report.fenced", report=report.type, epoch_now=watch.known.machine.epoch)
            return
        watch.see(report.epoch)
        command = command_of(report)
        if isinstance(command, c.Finished) and has_further_back_to_go(command, watch.known.machine):
            watch.miss(report.epoch, command.reason)
            watch.missing_reason = command.reason  # says more than its exit, which may have been noticed first
        await self._say(watch, report)
        self._reconciler.touch(watch)

    async def _say(self, watch: Watch, report: Report) -> None:
        if watch.known.machine.phase is Phase.PROVISIONING:
            with suppress(TimeoutError):
                async with asyncio.timeout(BOOT_WAIT_S):
                    await watch.booted.wait()

        def decided(machine: Machine) -> Sequence[MachineEvent]:
            command = command_of(report)
            if command is None or machine.epoch != report.epoch:
                return ()
            return decide(command, machine)

        await self._desk.say(watch.known, decided)


def command_of(report: Report) -> c.Command | None:
    """What a report asks of the machine; None: it only says that the agent lives."""
    match report.model:
        case WorkspaceRestored(restore_ms=restore_ms):
            return c.Restored(report.epoch, restore_ms)
        case AgentProgressed(message=message, percent=percent):
            return c.Progressed(report.epoch, message, percent, now())
        case AgentFinished() as done:
            outcome = None if done.outcome == "parked" else Outcome(done.outcome)
            return c.Finished(
                report.epoch, outcome, done.exit_code, done.reason, done.checkpoint_id, done.network_bytes
            )
        case AgentRegistered():
            return c.BeatSeen(report.epoch)
        case _:
            return None
