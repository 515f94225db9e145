"""Checkpoints at the boundary of a model call: the next call, or a risky tool call's delivery, waits for a capture.

The agent is asked over its command subject. Whatever goes wrong there ends after a deadline: a client never has to try again
because a checkpoint failed or was slow.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from uuid import UUID

import nats.errors
import structlog
from nats.aio.client import Client

from domain import boundary, risk
from domain.boundary import Since, Want
from events import address
from events.agent import Capture
from events.fresh import uuid7
from events.project import CheckpointPolicy, RiskRule
from events.words import CheckpointType, CreationContext
from services.gateway.context import CallContext
from services.gateway.tokens import Tokens
from services.gateway.usage import Json, as_list, as_object, as_text, parsed

ANSWER_SLACK_S = 2.0
SILENT_S = 60.0
"""A machine whose agent did not answer in time is not held again for so long, for captures of the same kind."""
MACHINES_MAX = 10_000
RISK_S = 2.0
"""What cannot be searched for risks in this time counts as risky."""
_log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway")


@dataclass(slots=True)
class _Next:
    """The capture that comes next; calls that come before it begins share it."""

    want: Want
    done: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Machine:
    since: Since = field(default_factory=Since)
    silent_until: dict[bool, float] = field(default_factory=dict[bool, float])
    """By whether the capture is one before risk."""
    at_work: asyncio.Lock = field(default_factory=asyncio.Lock)
    next: _Next | None = None

    def is_silent(self, want: Want) -> bool:
        return time.monotonic() < self.silent_until.get(want.before_risk, 0.0)


def _searchers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=2, thread_name_prefix="risk")


@dataclass(slots=True)
class Checkpoints:
    """Has machines captured between their calls and before what is risky, as their project's policy says."""

    nc: Client
    tokens: Tokens
    deadline_s: float
    on_missed: Callable[[CreationContext], None]
    """Called for every capture that did not come about."""
    _machines: OrderedDict[tuple[UUID, int], _Machine] = field(default_factory=OrderedDict[tuple[UUID, int], _Machine])
    _searching: ThreadPoolExecutor = field(default_factory=_searchers)

    async def between_calls(self, call: CallContext, body: Json) -> None:
        machine = self._machine(call)
        want = boundary.between_calls(self._policy(call), machine.since, time.monotonic())
        if want is not None:
            await self._captured(call, machine, replace(want, transcript_has=results_in(body)))
        machine.since = machine.since.called(time.monotonic())

    def risk_watch(self, call: CallContext) -> "Watch | None":
        policy = self._policy(call)
        return Watch(self, call, policy.risk_rules) if policy.before_risk and policy.risk_rules else None

    async def before_risk(self, call: CallContext, tool: str) -> None:
        _log.info("tool.risky", machine_id=str(call.machine_id), tool=tool[:200])
        await self._captured(call, self._machine(call), boundary.BEFORE_RISK)

    async def is_risky(self, patterns: tuple[str, ...], given: str) -> bool:
        """Search a tool's input, beside the loop: it may take long, and other machines' calls do not wait for it."""
        search = partial(risk.found, patterns, given)
        try:
            async with asyncio.timeout(RISK_S):
                return await asyncio.get_running_loop().run_in_executor(self._searching, search)
        except TimeoutError:
            return True

    def _policy(self, call: CallContext) -> CheckpointPolicy:
        return self.tokens.policies(call.project).checkpoints

    def _machine(self, call: CallContext) -> _Machine:
        key = (call.machine_id, call.epoch)
        machine = self._machines.setdefault(key, _Machine())
        self._machines.move_to_end(key)
        if len(self._machines) > MACHINES_MAX:
            self._machines.popitem(last=False)
        return machine

    async def _captured(self, call: CallContext, machine: _Machine, want: Want) -> None:
        """Return after a capture that begins now or later: one that is under way may have missed what was done since."""
        if machine.is_silent(want):
            return
        coming = machine.next
        if coming is None or coming.done is None:
            coming = machine.next = _Next(want)
            coming.done = asyncio.create_task(self._capture_next(call, machine, coming))
        else:
            coming.want = coming.want.joined(want)
        await asyncio.wait([coming.done])

    async def _capture_next(self, call: CallContext, machine: _Machine, coming: _Next) -> None:
        async with machine.at_work:
            machine.next = None
            if not machine.is_silent(coming.want):
                await self._ask(call, machine, coming.want)

    async def _ask(self, call: CallContext, machine: _Machine, want: Want) -> None:
        asked = Capture(
            checkpoint_id=uuid7(),
            checkpoint_type=CheckpointType.AUTOMATIC,
            creation_context=CreationContext.BEFORE_RISK if want.before_risk else CreationContext.BETWEEN_CALLS,
            deadline_s=self.deadline_s,
            only_changes=want.only_changes,
            transcript_has=want.transcript_has,
        )
        subject = address.command(call.project, call.machine_id, call.epoch, "Capture")
        try:
            reply = await self.nc.request(
                subject, asked.model_dump_json().encode(), timeout=asked.deadline_s + ANSWER_SLACK_S
            )
        except nats.errors.NoRespondersError:
            self._missed(call, asked, "no agent listens")  # said at once: it holds nobody, so the next may try again
            return
        except (nats.errors.Error, TimeoutError) as error:
            machine.silent_until[want.before_risk] = time.monotonic() + SILENT_S
            self._missed(call, asked, repr(error))
            return
        answer = parsed(reply.data) or {}
        match as_text(answer.get("report")):
            case "WorkspaceCaptured":
                machine.since = machine.since.captured(time.monotonic())
            case "NothingChanged":
                pass
            case _:
                self._missed(call, asked, as_text(answer.get("reason")) or as_text(answer.get("error")))

    def _missed(self, call: CallContext, asked: Capture, reason: str) -> None:
        self.on_missed(asked.creation_context)
        _log.warning(
            "checkpoint.missed",
            machine_id=str(call.machine_id),
            checkpoint_id=str(asked.checkpoint_id),
            context=asked.creation_context,
            reason=reason[:1_000],
        )


@dataclass(frozen=True, slots=True)
class Watch:
    """Looks at the tool calls of one answer."""

    checkpoints: Checkpoints
    call: CallContext
    rules: tuple[RiskRule, ...]

    async def on_tool(self, name: str, input_json: str) -> None:
        patterns = risk.watching(self.rules, name)
        if patterns and await self.checkpoints.is_risky(patterns, input_json):
            await self.checkpoints.before_risk(self.call, name)


def results_in(body: Json) -> tuple[str, ...]:
    """Return the ids of the tool calls whose results the request brings: those after the model's last answer."""
    ids: list[str] = []
    for message in reversed([as_object(each) for each in as_list(body.get("messages"))[-boundary.IDS_MAX :]]):
        role = message.get("role")
        if role == "assistant":
            break
        if role == "tool":
            ids.append(as_text(message.get("tool_call_id")))
        blocks = [as_object(block) for block in as_list(message.get("content"))]
        ids += [as_text(block.get("tool_use_id")) for block in reversed(blocks) if block.get("type") == "tool_result"]
    return tuple(each[:200] for each in reversed(ids) if each)[: boundary.IDS_MAX]
