"""The life of one incarnation, top to bottom: restore, set up, run, stream, capture, stop, seal, report, end.

The runner starts as soon as the workspace stands; the hub is not waited for. Without the hub the work goes on and
what there is to say is kept (bounded); after `hub_lost_s` the agent ends itself. A refused credential ends it at once:
somebody has fenced this incarnation.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path

import structlog

from agent import VERSION
from agent.captures import Captures
from agent.commands import Commands
from agent.connection import Connection
from agent.conversation import Conversation
from agent.freezer import Freezer, out_of_memory_kills
from agent.inject import Escape
from agent.options import Options
from agent.output import Output
from agent.process import RunnerProcess
from agent.pump import Pump
from agent.reports import Reports
from agent.runners import runner_for
from agent.runners.port import GATEWAY_PORT, CannotRun, Ending, Program, Reader, Runner
from agent.runners.shell import PlainReader, SetupReader
from agent.verdict import Reason, Verdict
from agent.watch import Watch
from agent.wayout import Gate, NoWayOut, Relay, listen_beside, way_out
from agent.workspace import NoStore, Restored, Workspace
from events import address
from events.agent import AgentFinished, AgentRegistered, AgentSpec, WorkspaceRestored
from snapshots.errors import SnapshotError

EXPIRED_GRACE_S = 5.0

log = structlog.get_logger()


class Supervisor:
    """One incarnation. `run` returns the exit code of the agent's own process: 0 when the hub knows how it ended."""

    def __init__(self, spec: AgentSpec, options: Options) -> None:
        self._spec, self._options = spec, options
        self._root = Path(spec.root)
        self._cgroups = tuple(Path(group) for group in spec.cgroups)
        self._connection = Connection(spec.nats_url, spec.nats_creds, str(spec.machine_id))
        self._reports = Reports(spec, self._connection)
        self._output = Output(spec, self._connection)
        self._workspace = Workspace(spec)
        self._captures = Captures(spec, self._workspace, self._reports, options)
        self._verdict = Verdict()
        self._reader: Reader = PlainReader()
        """Of the program that runs, or ran last."""
        self._was_stopped = False
        """Whether that program was still running when there was a reason to end it."""
        self._relay: Relay | None = None
        """Its way out, if it has one, or had."""

    async def run(self) -> int:
        async with self._background():
            await self._reports.say("spawner", AgentRegistered(agent_version=VERSION, pid=os.getpid()))
            finished = await self._work()
            if self._connection.refused.is_set():
                log.warning("agent.fenced", reason=finished.reason)
                return 3
            await self._output.all_published(self._options.drain_s)
            await self._reports.say("spawner", finished)
            known = await self._reports.all_acknowledged(self._options.hub_lost_s)
        log.info("agent.ended", outcome=finished.outcome, reason=finished.reason, known=known)
        return 0 if known else 4

    @contextlib.asynccontextmanager
    async def _background(self) -> AsyncGenerator[None]:
        """What goes on beside the work; when one of these breaks, so does the agent, and its sandbox with it."""
        spec = self._spec
        commands = Commands(self._captures, self._verdict)
        async with asyncio.TaskGroup() as group:
            subject = address.command(spec.project, spec.machine_id, spec.epoch, ">")
            coroutines = (
                self._connection.keep_open(subject, commands.hear),
                self._reports.run(),
                self._output.run(),
                self._beat(),
                self._hold_on_to_hub(),
            )
            tasks = [group.create_task(each) for each in coroutines]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await commands.close()
                await self._connection.close()
                self._workspace.close()

    async def _work(self) -> AgentFinished:
        deadline_s = asyncio.get_running_loop().time() + self._spec.deadline_in_s
        try:
            restored = await asyncio.to_thread(self._workspace.restore)
        except (SnapshotError, Escape, NoStore, OSError) as reason:
            return AgentFinished(outcome="failed", reason=f"the workspace could not be made: {reason}"[:4096])
        await self._say_restored(restored)
        runner = runner_for(self._spec.machine_type)
        if runner is None:
            return AgentFinished(outcome="failed", reason=f"this agent has no runner for {self._spec.machine_type}")
        if self._verdict.reason is not None:
            return await self._finish(None, [])
        return await self._pursue(runner, deadline_s)

    async def _pursue(self, runner: Runner, deadline_s: float) -> AgentFinished:
        """Run the project's setup script where it has not run yet, then the runner's program."""
        spec, conversation = self._spec, Conversation(self._spec, self._workspace)
        if conversation.setup_is_due:
            setup = Program(script=spec.agent_policy.setup, env=spec.env)
            code, pumps = await self._run_program(setup, SetupReader(), deadline_s, own_stream=False)
            if code != 0 or self._verdict.reason is not None:
                return await self._finish(code, pumps)
            await self._drain(pumps)
        try:
            program = self._prepared(runner, conversation)
        except (CannotRun, Escape, OSError) as reason:
            return AgentFinished(outcome="failed", reason=f"the agent cannot be started: {reason}"[:4096])
        try:
            code, pumps = await self._run_program(
                program, runner.reader(spec), deadline_s, own_stream=runner.own_stream, gateway_url=spec.gateway_url
            )
        except NoWayOut as reason:
            return AgentFinished(outcome="failed", reason=f"the agent cannot reach a model: {reason}"[:4096])
        return await self._finish(code, pumps)

    def _prepared(self, runner: Runner, conversation: Conversation) -> Program:
        """Have in the home what the program finds there."""
        start = conversation.start(runner)
        program = runner.program(self._spec, start)
        for path, text in program.files.items():
            self._workspace.put(f"home/{path}", text.encode())
        if runner.converses or self._spec.agent_policy.setup:
            conversation.remember(start)
        self._captures.transcripts = runner.transcripts(self._spec, start.session_id)
        return program

    async def _run_program(
        self, program: Program, reader: Reader, deadline_s: float, *, own_stream: bool, gateway_url: str = ""
    ) -> tuple[int, list[asyncio.Task[None]]]:
        """Run one program to its end; returns its exit code and what may still be reading its output."""
        self._reader = reader
        async with contextlib.AsyncExitStack() as stack:
            gate = stack.enter_context(contextlib.closing(Gate())) if gateway_url else None
            theirs = gate.theirs if gate else None
            home = {"HOME": self._spec.runner_home}
            process = RunnerProcess(self._spec.launcher, program, home, self._cwd(), theirs)
            pump = Pump(self._output, self._reports, reader, own_stream=own_stream)
            pumps = pump.start(process.stdout, process.stderr)
            self._captures.freezer = Freezer(self._cgroups)
            try:
                if gate is not None and (pid := await gate.arrived()) is not None:
                    self._relay = await stack.enter_async_context(
                        way_out(listen_beside(pid, GATEWAY_PORT), gateway_url)
                    )
                    gate.open()
                return await self._run_down(process, deadline_s), pumps
            finally:
                self._captures.freezer.thaw()
                await process.close(self._cgroups)

    async def _say_restored(self, restored: Restored) -> None:
        report = WorkspaceRestored(restore_ms=restored.restore_ms, file_count=restored.file_count)
        await self._reports.say("spawner", report)
        self._captures.workspace_stands()
        if self._spec.policy.at_start:
            await self._captures.at_start(restored)

    def _cwd(self) -> str:
        """The launcher's own directory is the sandbox's affair; without one it is the workspace."""
        return "/" if self._spec.launcher else self._spec.runner_workspace

    async def _run_down(self, process: RunnerProcess, deadline_s: float) -> int:
        """Wait until the runner is over, or end it when there is a reason to."""
        watch = Watch(self._root, self._spec.limits, self._options, memory=not self._memory_is_limited())
        async with _beside(self._expire(deadline_s), self._obey(watch, process), self._captures.by_interval()):
            over = asyncio.create_task(process.wait())
            stop = asyncio.create_task(self._verdict.wait())
            await asyncio.wait({over, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            self._was_stopped = not over.done()
            if not over.done() and self._verdict.reason is not None:
                await _stop(process, over, self._verdict.reason.grace_s)
            return await over

    async def _finish(self, code: int | None, pumps: list[asyncio.Task[None]]) -> AgentFinished:
        reason = self._verdict.reason
        await self._drain(pumps)
        ending = self._judge(code)
        if (
            reason is not None
            and reason.outcome == "parked"
            and ending.outcome == "succeeded"
            and not self._was_stopped
        ):
            reason = None  # it was done before it was told to park
        words = reason.text if reason else ending.reason
        if words:
            self._output.say(words)
        parks = reason is not None and reason.outcome == "parked"
        seal = (self._spec.policy.at_end or parks) and (reason is None or reason.seal)
        sealing = seal and not self._connection.refused.is_set()
        checkpoint_id = await self._captures.at_end(parks=parks) if sealing else None
        outcome = reason.outcome if reason else ending.outcome
        return AgentFinished(
            outcome=outcome,
            exit_code=code,
            reason=words[:4096],
            checkpoint_id=checkpoint_id,
            network_bytes=self._relay.carried_bytes if self._relay else 0,
        )

    async def _drain(self, pumps: list[asyncio.Task[None]]) -> None:
        if pumps:
            _, late = await asyncio.wait(pumps, timeout=self._options.drain_s)
            for pump in late:
                pump.cancel()
        self._output.end()

    def _judge(self, code: int | None) -> Ending:
        """How the program ended; None: it never began."""
        if code is None:
            return Ending("failed")
        ending = self._reader.judge(code)
        killed = out_of_memory_kills(self._cgroups)
        if ending.outcome == "failed" and code and killed:
            memory = f"they had more memory than {self._spec.limits.memory_mib} MiB"
            return Ending("failed", f"the kernel killed {killed} processes: {memory}")
        return ending

    async def _expire(self, deadline_s: float) -> None:
        await asyncio.sleep(deadline_s - asyncio.get_running_loop().time())
        self._verdict.give(
            Reason("expired", f"the goal's deadline of {self._spec.limits.deadline_s} s has passed", EXPIRED_GRACE_S)
        )

    async def _obey(self, watch: Watch, process: RunnerProcess) -> None:
        self._verdict.give(Reason("failed", await watch.breach(process), 0.0))

    async def _hold_on_to_hub(self) -> None:
        """End the work when the hub is away for too long, or does not want us any more."""
        while True:
            if self._connection.refused.is_set():
                self._verdict.give(Reason("failed", "the hub refused this incarnation's credential", 0.0, seal=False))
            elif (lost_s := self._connection.lost_for_s()) > self._options.hub_lost_s:
                self._verdict.give(Reason("failed", f"no connection to the hub for {lost_s:.0f} s", EXPIRED_GRACE_S))
            await asyncio.sleep(min(1.0, self._options.hub_lost_s / 4))

    async def _beat(self) -> None:
        subject = address.beat(self._spec.project, self._spec.machine_id, self._spec.epoch)
        while True:
            (self._root / "alive").touch()
            if self._connection.is_connected:
                with contextlib.suppress(OSError):
                    await self._connection.client.publish(subject, b"")
            await asyncio.sleep(self._options.beat_s)

    def _memory_is_limited(self) -> bool:
        return any(
            (group / name).exists() for group in self._cgroups for name in ("memory.max", "memory.limit_in_bytes")
        )


async def _stop(process: RunnerProcess, over: asyncio.Task[int], grace_s: float) -> None:
    """Interrupt, then TERM, then the end of its process namespace; each has half of the grace."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if grace_s > 0 and not over.done():
            process.signal(number)
            await asyncio.wait({over}, timeout=grace_s / 2)
    process.kill()


@contextlib.asynccontextmanager
async def _beside(*coroutines: Coroutine[None, None, None]) -> AsyncGenerator[None]:
    """Run these while the body runs."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in coroutines]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
