"""Carries out what a machine's state asks for: one step at a time, each safe to do again."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import nats.errors
import structlog

from domain import checkpoint as tree
from domain import machine_commands as c
from domain.checkpoint import newest_of, recovery_candidates, start_of, why_not
from domain.machine import Want, advance, awaited, decide, final_checkpoint, safety_id, wants
from domain.machine_state import Machine, Start, due, is_sealed_late
from domain.overview import Project
from domain.phases import PROGRESS_S
from domain.tariff import Tariff
from domain.usage import is_usage_due, usage_of
from events import address as at
from events.agent import Capture, Stop
from events.fresh import now
from events.machine import MachineEvent, UsageRecorded
from events.project import ProjectAdvanced
from events.words import CheckpointType, CreationContext, Outcome, Phase
from hypervisors.port import Hypervisor, Refused, Unreachable, Usage
from services.kit.bus import Bus
from services.kit.credentials import CredentialsRefused
from services.spawner.desk import Advance, Desk
from services.spawner.saga import Saga, Spawn
from services.spawner.settings import SpawnerSettings
from services.spawner.tools import Tools
from services.spawner.watch import Watch

_STOPPED_AS: dict[Outcome | None, Literal["expired", "parked"]] = {Outcome.EXPIRED: "expired", None: "parked"}
_log: structlog.stdlib.BoundLogger = structlog.get_logger("spawner")


class Effects:
    """What is done for a machine. `step` does the next thing and says whether there was one."""

    def __init__(  # noqa: PLR0917 - its ports
        self, bus: Bus, desk: Desk, saga: Saga, hypervisor: Hypervisor, settings: SpawnerSettings, tariff: Tariff
    ) -> None:
        self._nc = bus.nc
        self._desk = desk
        self._saga = saga
        self._hypervisor = hypervisor
        self._settings = settings
        self._tariff = tariff
        self._tools = Tools(settings)
        self._claims: dict[UUID, at.Address] = {}
        self._starts = asyncio.Semaphore(settings.starts_max)
        self.host_is_fit = False
        """Whether the host has proved its isolation: until then nothing is made on it."""

    async def step(self, watch: Watch) -> bool:  # noqa: PLR0911 - one case a want
        """Do what comes next for the machine; False: there is nothing to do until something happens or time passes."""
        if await self._react(watch):
            return True
        machine = watch.known.machine
        late = is_sealed_late(machine, now())
        match wants(machine, settled=self._settled(watch), gone=watch.is_gone, late=late):
            case Want.NOTHING:
                return False
            case Want.PROVISION:
                return await self._provision(watch)
            case Want.SPAWN:
                return await self._spawn(watch)
            case Want.CAPTURE:
                return await self._capture(watch)
            case Want.STOP_AGENT:
                return await self._stop_agent(watch)
            case Want.TAKE_DOWN:
                return await self._take_down(watch)

    async def lost(self, watch: Watch, reason: str) -> Sequence[MachineEvent]:
        """Say that the incarnation is lost, and what comes of it."""
        return await self._desk.say(
            watch.known,
            lambda machine: decide(c.Lost(machine.epoch, reason, self._candidates(watch), now()), machine),
            reason=reason,
        )

    def _settled(self, watch: Watch) -> bool:
        waits_for = awaited(watch.known.machine)
        return waits_for is None or self._checkpoint(watch, waits_for).is_settled

    def _checkpoint(self, watch: Watch, checkpoint_id: UUID) -> tree.Checkpoint:
        return self._desk.overview.checkpoint(watch.known.address.project, checkpoint_id)

    def _project(self, watch: Watch) -> Project:
        return self._desk.overview.project(watch.known.address.project)

    def _candidates(self, watch: Watch) -> tuple[Start, ...]:
        known = watch.known
        base = known.machine.base
        if base is None:
            return ()
        return recovery_candidates(self._project(watch).tree, known.machine_id, base, known.machine.base_epoch)

    async def _react(self, watch: Watch) -> bool:  # noqa: PLR0911 - one answer a question
        """Answer what was asked of the machine, what it waited for, and the time."""
        machine, known, moment = watch.known.machine, watch.known, now()
        if machine.stop is not None and await self._desk.say(known, lambda m: decide(c.Stop(), m)):
            return True
        if (machine.held or machine.parks_for) and await self._desk.say(known, lambda m: decide(c.Park(), m)):
            return True
        if (machine.restore or machine.refusals) and await self._desk.say(known, lambda m: self._restore(watch, m)):
            return True
        waits_for = awaited(machine)
        if waits_for is not None and (failed := self._checkpoint(watch, waits_for).failed) is not None:
            settled = c.CheckpointSettled(waits_for, taken=False, reason=failed)
            if await self._desk.say(known, lambda m: decide(settled, m)):
                return True
        if is_usage_due(machine, moment, self._settings.meter_s) and await self._meter(watch):
            return True
        came = due(machine)
        if came is not None and moment >= came:
            return bool(
                await self._desk.say(known, lambda m: self._deadline(watch, m, moment), advance=self._advance(watch))
            )
        return False

    def _restore(self, watch: Watch, machine: Machine) -> list[MachineEvent]:
        target = machine.restore
        if target is None:
            return decide(c.Restore(UUID(int=0)), machine)
        impossible = why_not(self._project(watch).tree, target)
        return decide(c.Restore(safety_id(watch.known.machine_id, machine.epoch, target), impossible), machine)

    def _deadline(self, watch: Watch, machine: Machine, moment: datetime) -> list[MachineEvent]:
        over = machine.phase is Phase.ENDING or machine.is_parking
        usage = self._usage(machine, Usage(), watch) if over else ()
        passed = c.DeadlinePassed(moment, self._candidates(watch), usage, self._last_good(watch))
        return decide(passed, machine)

    async def _provision(self, watch: Watch) -> bool:
        """Fence what there was, then begin the next incarnation."""
        if not self.host_is_fit:
            return False
        known = watch.known
        found = self._start(watch)
        if found is None:
            return False
        if not self._claim(watch):
            found = f"machine id {known.machine_id} is in use; ask again with a fresh one"
        if isinstance(found, str):
            return bool(await self._desk.say(known, lambda m: decide(c.Refuse(found), m)))
        async with self._starts:
            fenced = known.machine.epoch
            usage = await self._fence(watch, fenced) if fenced else ()
            spawn = self._saga.begin(known, fenced + 1)
            provision = c.Provision(
                hypervisor=self._hypervisor.name,
                node=self._hypervisor.node,
                start=found,
                on_trunk=known.machine.request is not None and known.machine.request.from_checkpoint_id is None,
                fenced=fenced,
                settled=self._settled(watch),
                usage=usage,
            )
            # The credentials are made while the log is told: they start nothing, and where that fails the saga's first
            # step does it again and says why.
            told, _ = await asyncio.gather(
                self._desk.say(known, lambda m: decide(provision, m)),
                self._saga.prepare(spawn),
                return_exceptions=True,
            )
            if isinstance(told, BaseException):
                raise told
            if not told:
                await self._saga.undo(spawn)
                return False
            watch.spawn = spawn
            watch.missing_since = None
            return await self._make(watch, spawn)

    def _claim(self, watch: Watch) -> bool:
        """Have the machine's id for this machine alone, from before its first incarnation to its end.

        Two projects may name their machines alike; to a host they would be one, and ending the one would destroy
        the other.
        """
        known, machines = watch.known, self._desk.overview.machines
        holder = self._claims.get(known.machine_id)
        if holder is None or holder not in machines:
            other = self._desk.overview.same_id_elsewhere(known)
            holder = self._claims[known.machine_id] = other.address if other else known.address
        return holder == known.address

    async def _spawn(self, watch: Watch) -> bool:
        """Have the incarnation that the log speaks of on the host."""
        if not self.host_is_fit:
            return False
        epoch = watch.known.machine.epoch
        spawn = watch.spawn
        if spawn is None or spawn.epoch != epoch:
            spawn = watch.spawn = self._saga.begin(watch.known, epoch)
        async with self._starts:
            return await self._make(watch, spawn)

    async def _make(self, watch: Watch, spawn: Spawn) -> bool:
        known = watch.known
        if known.machine.phase is not Phase.PROVISIONING or known.machine.epoch != spawn.epoch:
            return True
        watch.booted.clear()
        try:
            request = known.machine.request
            tool = await self._tools.tool_of(request.machine_type) if request else None
            spawn.spec = self._saga.spec(known, self._project(watch), now(), tool)
            await self._saga.run(spawn)
            assert spawn.vm is not None, "the last step makes it"
            booted = c.Booted(spawn.epoch, spawn.vm.vm_id, spawn.vm.enforcement)
            watch.made_at = time.monotonic()
            watch.see(spawn.epoch)
            return bool(await self._desk.say(known, lambda m: decide(booted, m)))
        except (Refused, CredentialsRefused) as error:
            refused = c.Refuse(str(error)[:4_000])
            return bool(await self._desk.say(known, lambda m: decide(refused, m)))
        except Unreachable as error:
            if (now() - known.machine.since).total_seconds() < PROGRESS_S:
                raise
            return bool(await self.lost(watch, f"no progress for {PROGRESS_S} s: {error}"[:4_000]))
        finally:
            watch.booted.set()

    def _start(self, watch: Watch) -> Start | str | None:
        """What the next incarnation starts from; a reason why it never can; None: that is not known yet."""
        machine, project = watch.known.machine, self._project(watch)
        if machine.phase in {Phase.CHECKPOINTING, Phase.PARKED} and machine.restore:
            return start_of(project.tree, machine.restore)
        if machine.base is not None:
            wanted = start_of(project.tree, machine.next_from)
            good = wanted is not None and project.tree[wanted.checkpoint_id].is_good
            return wanted if good else (self._candidates(watch) or (machine.base,))[0]
        request = machine.request
        if request is None or request.machine_type not in self._settings.runners:
            return f"there is no runner for machines of type {request.machine_type if request else '?'} here"
        wanted_id = request.from_checkpoint_id or project.current
        if wanted_id is None:
            genesis = project.tree.get(tree.genesis_id(project.slug))
            failed = genesis.failed if genesis else None
            return None if failed is None else f"the project has no checkpoint to start from: {failed}"
        return why_not(project.tree, wanted_id) or start_of(project.tree, wanted_id)

    async def _fence(self, watch: Watch, epoch: int) -> tuple[UsageRecorded, ...]:
        """Make sure that nothing of an epoch can speak or runs; return what it used."""
        spawn = self._saga.begin(watch.known, epoch)
        await self._saga.undo(spawn)
        return self._usage(watch.known.machine, spawn.usage, watch)

    async def _meter(self, watch: Watch) -> bool:
        """Record what a machine at work has used, so that budgets and reports need not wait for its end."""
        known = watch.known
        epoch = known.machine.epoch
        lines = self._usage(known.machine, await self._hypervisor.usage(known.machine_id, epoch), watch)
        if not any(line.period_end > line.period_start for line in lines):
            return False
        return bool(await self._desk.say(known, lambda m: decide(c.Meter(epoch, lines), m)))

    def _usage(self, machine: Machine, used: Usage, watch: Watch) -> tuple[UsageRecorded, ...]:
        newest = machine.incarnation
        if newest is None:
            return ()
        until = used.ended_at or newest.ran_until(now(), surely=watch.seen_epoch == newest.epoch)
        measured = {
            "cpu_s": f"{used.cpu_s:.3f}",
            "memory_byte_s": f"{used.memory_byte_s:.0f}",
            "memory_peak_bytes": str(used.memory_peak_bytes),
        }
        return tuple(
            line.model_copy(update={"metadata": measured} if used.started_at else {})
            for line in usage_of(machine, until, self._tariff)
        )

    async def _stop_agent(self, watch: Watch) -> bool:
        """Tell the agent to stop, again and again until it says that it has finished."""
        ending = watch.known.machine.ending
        outcome = ending.outcome if ending else Outcome.CANCELLED
        command = Stop(reason=ending.reason if ending else "", outcome=_STOPPED_AS.get(outcome, "cancelled"))
        await self._tell(watch, "Stop", command.model_dump_json())
        return False

    async def _capture(self, watch: Watch) -> bool:
        """Tell the agent to take the safety checkpoint; the log says when it is taken."""
        checkpoint_id = watch.known.machine.safety_id
        assert checkpoint_id is not None, "a machine in checkpointing waits for one"
        command = Capture(
            checkpoint_id=checkpoint_id,
            checkpoint_type=CheckpointType.SAFETY,
            creation_context=CreationContext.BEFORE_RISK,
        )
        await self._tell(watch, "Capture", command.model_dump_json())
        return False

    async def _tell(self, watch: Watch, command: str, body: str) -> None:
        """Send a command at most every `stop_repeat_s`; no answer is no news: the deadline of the phase decides."""
        if time.monotonic() - watch.told_at < self._settings.stop_repeat_s:
            return
        watch.told_at = time.monotonic()
        known = watch.known
        subject = at.command(known.address.project, known.machine_id, known.machine.epoch, command)
        try:
            await self._nc.request(subject, body.encode(), timeout=self._settings.spawner_command_timeout_s)
        except (nats.errors.Error, TimeoutError) as error:
            _log.info("command.unanswered", command=command, address=str(known.address), reason=repr(error))

    async def _take_down(self, watch: Watch) -> bool:
        """Destroy, revoke, and say the end, or the rest, with all that belongs to it, in one batch."""
        known = watch.known
        epoch = known.machine.epoch
        usage = await self._fence(watch, epoch)
        destroyed = c.Destroyed(epoch, usage, self._last_good(watch))
        said = await self._desk.say(known, lambda m: decide(destroyed, m), advance=self._advance(watch))
        if known.machine.is_ended:
            self._claims.pop(known.machine_id, None)
        return bool(said)

    def _last_good(self, watch: Watch) -> UUID | None:
        known = watch.known
        newest = newest_of(self._project(watch).tree, known.machine_id)
        return final_checkpoint(known.machine, taken=self._final_is_good(watch), last_good=newest)

    def _final_is_good(self, watch: Watch) -> bool:
        ending = watch.known.machine.ending
        final = ending.checkpoint_id if ending else None
        return final is not None and self._checkpoint(watch, final).is_good

    def _advance(self, watch: Watch) -> Advance:
        def moved(machine: Machine, project: Project) -> Sequence[ProjectAdvanced]:
            return advance(machine, watch.known.machine_id, project.current, taken=self._final_is_good(watch))

        return moved
