"""What passes between the gateway and the budget about a model call. None of it is an event.

Request/reply on core NATS inside HUB, subjects `budget.<verb>` (`SUBJECTS`). Every verb is idempotent by `call_id`: asked
again it gives the answer that it gave. A reservation belongs to one gateway and lives as long as that renews it (`LEASE_S`).
"""

from typing import Annotated, Literal

from pydantic import Field

from events.base import Amount, Count, Epoch, Id, Name, Slug, Text, Time, Value
from events.call import Rates, ServerTools, Tokens
from events.words import HoldMode, OnExhausted, Resource, Unit

LEASE_S = 90.0
"""A call that is not renewed for so long is in doubt and settled with the most it can have cost."""
RENEW_S = 30.0
WAIT_S_MAX = 600.0
POLL_S = 5.0
"""However long a reservation may wait, something is answered within so long (`Waiting`), so whoever has died is noticed."""


class Call(Value):
    """Which call is spoken of."""

    call_id: Id
    project: Slug
    machine_id: Id
    epoch: Epoch


class Reserve(Call):
    """Set the worst case aside. Answered by Granted or NotGranted, at the latest after `wait_s`; by Waiting every `POLL_S`."""

    provider: Name
    """As the upstream's prices know it: `anthropic`, `openai`, … or a provider of the hub's own price list."""
    model: Name
    input_tokens_max: Count
    """An upper bound of all input, by the size of the body."""
    cache_write: Literal["none", "5m", "1h"] = "none"
    """The dearest cache write that the body asks for."""
    output_tokens_max: Count
    """What the client asked for, or the gateway's default."""
    output_tokens_min: Count = 0
    """Below it the call makes no sense (thinking budget + 1): it is not clamped further."""
    server_tools: ServerTools = {}
    """At most so many uses each."""
    speed: Name | None = None
    """What the body asks for (`fast`); a faster service is dearer."""
    mode: HoldMode = HoldMode.CLAMPED
    wait_s: Annotated[float, Field(ge=0, le=WAIT_S_MAX)] = 0.0
    """How long it may wait while only reservations of others stand in the way (and, with `hold`, use)."""
    waited_s: Annotated[float, Field(ge=0, le=WAIT_S_MAX)] = 0.0
    """How long it has waited already: a budget that has just started gives it the place that it had."""
    session_id: Name | None = None


class Granted(Value):
    """It is durably set aside: forward it, with this `max_tokens`."""

    call_id: Id
    output_tokens_max: Count
    held_cad: Amount
    lease_s: Annotated[float, Field(gt=0, le=600)] = LEASE_S
    """Unless it is renewed sooner, it is settled as lost."""


class NotGranted(Value):
    """Nothing is set aside."""

    call_id: Id
    code: Literal["exhausted", "waited", "unknown_model", "model_not_allowed", "fenced", "cancelled"]
    """exhausted: use stands in the way. waited: reservations did, for all of `wait_s`. fenced: this epoch does not run."""
    action: OnExhausted = OnExhausted.REFUSE
    """What becomes of the machine; `park` is durable already."""
    message: Text
    """For people: what was asked, what stands against it, what to type."""
    node: Name | None = None
    resource: Resource | None = None
    unit: Unit | None = None
    asked: Amount | None = None
    available: Amount | None = None


class Waiting(Value):
    """It waits still: ask again at once, with what is left of `wait_s`. Its place is kept for a moment."""

    call_id: Id
    ask_again: Literal[True]


class Observe(Call):
    """The provider has said what went in. Answered by `{}`."""

    tokens: Tokens


class Settle(Call):
    """The call is over. Answered by Settled."""

    tokens: Tokens
    thinking_tokens: Count = 0
    server_tools: ServerTools = {}
    service_tier: Name | None = None
    speed: Name | None = None
    inference_geo: Name | None = None
    estimated: bool = False
    reason: Text = ""
    http_status: Annotated[int, Field(ge=0, le=999)] = 200
    request_id: Name | None = None
    stop_reason: Name | None = None
    began_at: Time
    ended_at: Time
    first_chunk_ms: Count | None = None


class Settled(Value):
    """What it cost, and what the machine's calls have cost so far."""

    call_id: Id
    cost_cad: Amount
    spent_cad: Amount


class Void(Call):
    """The call came to nothing, or its client has gone while it waited. Answered by `{}`."""

    reason: Text
    http_status: Annotated[int, Field(ge=0, le=999)] = 0


class Renew(Value):
    """These calls are alive. Answered by Renewed."""

    calls: Annotated[tuple[Call, ...], Field(max_length=1_000)]


class Renewed(Value):
    """Which of them are no longer open: settled in doubt, or never known."""

    lost: tuple[Id, ...] = ()


class AskPrice(Value):
    """What does a model cost? Answered by Priced."""

    provider: Name | None = None
    """None: whoever offers it."""
    model: Name
    speed: Name | None = None


class Priced(Value):
    """None: unknown, and so refused."""

    model: Name
    provider: Name | None = None
    rates: Rates | None = None
    source: Text = ""
    as_of: Time | None = None


SUBJECTS: dict[type[Value], str] = {
    Reserve: "budget.reserve",
    Observe: "budget.observe",
    Settle: "budget.settle",
    Void: "budget.void",
    Renew: "budget.renew",
    AskPrice: "budget.price",
}
