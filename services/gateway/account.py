"""What one call costs whom: set aside before it is forwarded, observed, and resolved exactly once, off the client's path."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypedDict, TypeVar
from uuid import UUID

import structlog

from events.call import Tokens
from events.fresh import now
from events.ledger import Call, Granted, NotGranted, Observe, Reserve, Settle, Void
from services.gateway.leases import Leases
from services.gateway.refusals import Refusal, RefusedCall, not_to_be_had, out_of_budget, unauthenticated, unreachable
from services.gateway.usage import Usage
from services.kit.ledger import CallLedger, LedgerError, LedgerRefused, LedgerUnreachable

RETRY_MIN_S = 0.1
RETRY_MAX_S = 5.0
_log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway")
_CLASS_OF = {"none": "input", "5m": "cache_write_5m", "1h": "cache_write_1h"}
T = TypeVar("T")


@dataclass(slots=True)
class Account:
    """One call's money: how much is set aside, and what has been said of it."""

    call: Call
    input_max: Tokens
    """The most that can go in, in the class that was set aside for."""
    server_tools: dict[str, int]
    """At most so many uses each."""
    output_tokens_max: int = 0
    began_at: datetime = field(default_factory=now)
    first_chunk_ms: int | None = None
    http_status: int = 200
    request_id: str | None = None
    observing: asyncio.TimerHandle | None = None
    """When what went in is said; a call that is over sooner says all at once."""
    observed: asyncio.Task[None] | None = None
    is_resolved: bool = False

    def resolves(self) -> bool:
        """Take it for resolved from now on; returns False where it was already."""
        if self.is_resolved:
            return False
        self.is_resolved = True
        if self.observing is not None:
            self.observing.cancel()
        return True


class Accounts:
    """Speaks with the ledger for all calls. What must be said in the end is said again until it is heard."""

    def __init__(
        self, ledger: CallLedger, leases: Leases, spawn: Callable[[Awaitable[None]], asyncio.Task[None]]
    ) -> None:
        self._ledger = ledger
        self._leases = leases
        self._spawn = spawn

    async def reserve(self, ask: Reserve) -> Account:
        """Set the worst case aside; what it answers is durable.

        Raises:
            RefusedCall: The call must not be made.
        """
        account = Account(
            Call(call_id=ask.call_id, project=ask.project, machine_id=ask.machine_id, epoch=ask.epoch),
            Tokens(**{_CLASS_OF[ask.cache_write]: ask.input_tokens_max}),
            ask.server_tools,
        )
        try:
            answer = await self._ledger.reserve(ask)
        except LedgerUnreachable as error:
            self.void(account, "the budget did not answer in time")
            _log.warning("ledger.unreachable", call_id=str(ask.call_id), reason=str(error))
            raise RefusedCall(unreachable("the budget cannot be reached")) from error
        except LedgerRefused as error:
            self.void(account, "the budget refused the question")
            raise RefusedCall(out_of_budget(str(error))) from error
        except asyncio.CancelledError:
            self.void(account, "whoever asked has gone")
            raise
        if isinstance(answer, NotGranted):
            raise RefusedCall(refusal_of(answer))
        return self._granted(account, answer)

    def _granted(self, account: Account, answer: Granted) -> Account:
        account.output_tokens_max = answer.output_tokens_max
        self._leases.hold(account.call, answer.lease_s)
        return account

    def observe(self, account: Account, usage: Usage, after_s: float) -> None:
        """Say what went in, beside the stream, once it has lasted for so long; if it is lost, the end says it."""
        loop = asyncio.get_running_loop()
        account.observing = loop.call_later(after_s, self._observe, account, usage)

    def _observe(self, account: Account, usage: Usage) -> None:
        ask = Observe(**_named(account.call), tokens=usage.input_side())
        account.observed = self._spawn(self._once(self._ledger.observe(ask)))

    def settle(self, account: Account, usage: Usage, *, reason: str = "") -> None:
        """Post what was used; `reason` says why the answer is not whole."""
        if not account.resolves():
            return
        estimated = not usage.is_complete
        why = reason or ("the provider did not say what was used" if estimated else "")
        ask = Settle(
            **_named(account.call),
            tokens=usage.tokens(account.input_max, account.output_tokens_max),
            thinking_tokens=min(usage.thinking, usage.output or 0),
            server_tools=account.server_tools if estimated else usage.server_tools,
            service_tier=usage.service_tier,
            speed=usage.speed,
            inference_geo=usage.inference_geo,
            estimated=estimated,
            reason=why[:4_000],
            http_status=account.http_status,
            request_id=account.request_id,
            stop_reason=usage.stop_reason,
            began_at=account.began_at,
            ended_at=max(account.began_at, now()),  # the clock may have been set back meanwhile
            first_chunk_ms=account.first_chunk_ms,
        )
        self._spawn(self._resolve(account, lambda: self._ledger.settle(ask)))

    def void(self, account: Account, reason: str, *, http_status: int = 0) -> None:
        """Say that it came to nothing."""
        if not account.resolves():
            return
        ask = Void(**_named(account.call), reason=reason[:4_000], http_status=http_status)
        self._spawn(self._resolve(account, lambda: self._ledger.void(ask)))

    async def _resolve(self, account: Account, say: Callable[[], Awaitable[T]]) -> None:
        pause_s = RETRY_MIN_S
        if account.observed is not None:
            await asyncio.wait([account.observed])
        while True:
            try:
                await say()
            except LedgerUnreachable as error:
                _log.warning("call.unresolved", call_id=str(account.call.call_id), reason=str(error))
                await asyncio.sleep(pause_s)
                pause_s = min(RETRY_MAX_S, 2 * pause_s)
                continue
            except LedgerRefused as error:
                _log.warning("call.not_resolved", call_id=str(account.call.call_id), reason=str(error))
            break
        self._leases.release(account.call.call_id)

    async def _once(self, said: Awaitable[None]) -> None:
        try:
            await said
        except LedgerError as error:
            _log.info("call.not_observed", reason=str(error))


class _Named(TypedDict):
    call_id: UUID
    project: str
    machine_id: UUID
    epoch: int


def _named(call: Call) -> _Named:
    return {"call_id": call.call_id, "project": call.project, "machine_id": call.machine_id, "epoch": call.epoch}


def refusal_of(answer: NotGranted) -> Refusal:
    """Return what the client is told."""
    match answer.code:
        case "fenced":
            return unauthenticated(answer.message)
        case "unknown_model" | "model_not_allowed":
            return not_to_be_had(answer.code, answer.message)
        case "exhausted" | "waited" | "cancelled":
            return out_of_budget(answer.message)
