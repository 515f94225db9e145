"""Checkpoints at the boundary of a model call: the next call, or a risky tool call's delivery, waits for a capture.

The agent is asked over its command subject. Whatever goes wrong there ends after a deadline: a client never has to try again
because a checkpoint failed or was slow.
"""

import asyncio
import re
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from uuid import UUID

import nats.errors
import structlog
from nats.aio.client import Client

from events import address
from events.agent import Capture
from events.fresh import uuid7
from events.project import CheckpointPolicy, RiskRule
from events.words import CheckpointType, CreationContext
from services.gateway.context import CallContext
from services.gateway.tokens import Tokens
from services.gateway.usage import as_list, as_object, as_text, parsed

ANSWER_SLACK_S = 2.0
SILENT_S = 60.0
"""A machine whose agent did not answer is not held again for so long."""
MACHINES_MAX = 10_000
RISK_CHARS_MAX = 16_384
"""So much of a tool call's input is looked at: a pattern's cost is bounded by it."""
IDS_MAX = 256
_log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway")


@dataclass(slots=True)
class _Machine:
    silent_until: float = 0.0
    capturing: asyncio.Task[None] | None = None
    """Calls that come at once wait for the same capture."""


@dataclass(slots=True)
class Checkpoints:
    """Has machines captured between their calls and before what is risky, as their project's policy says."""

    nc: Client
    tokens: Tokens
    deadline_s: float
    _machines: OrderedDict[tuple[UUID, int], _Machine] = field(default_factory=OrderedDict[tuple[UUID, int], _Machine])

    async def between_calls(self, call: CallContext, body: bytes) -> None:
        policy = self._policy(call)
        if policy.between_calls == "never":
            return
        asked = Capture(
            checkpoint_id=uuid7(),
            checkpoint_type=CheckpointType.AUTOMATIC,
            creation_context=CreationContext.BETWEEN_CALLS,
            deadline_s=self.deadline_s,
            only_changes=policy.between_calls == "changed",
            transcript_has=results_in(body),
        )
        await self._captured(call, asked)

    def risk_watch(self, call: CallContext) -> "Watch | None":
        policy = self._policy(call)
        return Watch(self, call, policy.risk_rules) if policy.before_risk and policy.risk_rules else None

    async def before_risk(self, call: CallContext, tool: str) -> None:
        _log.info("tool.risky", machine_id=str(call.machine_id), tool=tool[:200])
        asked = Capture(
            checkpoint_id=uuid7(),
            checkpoint_type=CheckpointType.AUTOMATIC,
            creation_context=CreationContext.BEFORE_RISK,
            deadline_s=self.deadline_s,
            only_changes=True,
        )
        await self._captured(call, asked)

    def _policy(self, call: CallContext) -> CheckpointPolicy:
        return self.tokens.policies(call.project).checkpoints

    async def _captured(self, call: CallContext, asked: Capture) -> None:
        key = (call.machine_id, call.epoch)
        machine = self._machines.setdefault(key, _Machine())
        self._machines.move_to_end(key)
        if len(self._machines) > MACHINES_MAX:
            self._machines.popitem(last=False)
        if time.monotonic() < machine.silent_until:
            return
        if machine.capturing is None or machine.capturing.done():
            machine.capturing = asyncio.create_task(self._ask(call, asked, machine))
        await asyncio.wait([machine.capturing])

    async def _ask(self, call: CallContext, asked: Capture, machine: _Machine) -> None:
        subject = address.command(call.project, call.machine_id, call.epoch, "Capture")
        told = {"machine_id": str(call.machine_id), "checkpoint_id": str(asked.checkpoint_id)}
        try:
            reply = await self.nc.request(
                subject, asked.model_dump_json().encode(), timeout=asked.deadline_s + ANSWER_SLACK_S
            )
        except (nats.errors.Error, TimeoutError) as error:
            machine.silent_until = time.monotonic() + SILENT_S
            _log.warning("checkpoint.missed", **told, reason=repr(error))
            return
        answer = parsed(reply.data) or {}
        report = as_text(answer.get("report"))
        if report not in {"WorkspaceCaptured", "NothingChanged"}:
            reason = as_text(answer.get("reason")) or as_text(answer.get("error"))
            _log.warning("checkpoint.missed", **told, reason=reason[:1_000])


@dataclass(frozen=True, slots=True)
class Watch:
    """Looks at the tool calls of one answer."""

    checkpoints: Checkpoints
    call: CallContext
    rules: tuple[RiskRule, ...]

    async def on_tool(self, name: str, input_json: str) -> None:
        if risky(self.rules, name, input_json):
            await self.checkpoints.before_risk(self.call, name)


def risky(rules: tuple[RiskRule, ...], tool: str, given: str) -> bool:
    """Say whether any rule's patterns are found in the call; a pattern that is none counts as found.

    So does every pattern in an input that is too long to be looked at whole: padding hides nothing.
    """
    too_long = len(given) > RISK_CHARS_MAX
    return any(_found(rule.tool, tool[:200]) and (too_long or _found(rule.input, given)) for rule in rules)


def _found(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return True


def results_in(body: bytes) -> tuple[str, ...]:
    """Return the ids of the tool calls whose results the request's last message brings."""
    messages = as_list((parsed(body) or {}).get("messages"))
    last = as_object(messages[-1]) if messages else {}
    blocks = [as_object(block) for block in as_list(last.get("content"))]
    ids = [as_text(block.get("tool_use_id")) for block in blocks if block.get("type") == "tool_result"]
    return tuple(each[:200] for each in ids if each)[:IDS_MAX]
