"""What happens to a model call: set aside for before it is forwarded, resolved exactly once after.

Calls are events of the machine's own budget account (`av.<project>.budget.<machine_id>`): they are paid out of what the
accounts above hold for the machine, so a call touches one aggregate, however many machines share a project's budget.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from events.base import Amount, Count, Digest, Epoch, Id, Name, Text, Time, Value
from events.budget import BudgetEvent
from events.words import HoldMode, MachineType, OnExhausted, Resource, Said, Unit

Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
ServerTools = Annotated[dict[Name, Count], Field(max_length=16)]
"""How often each tool that runs at the provider was used, e.g. `web_search`."""


class Tokens(Value):
    """Tokens of one call by class; together they are all of it, no class is part of another."""

    input: Count = 0
    """Neither read from a cache nor written to one."""
    output: Count = 0
    """With what the model thought."""
    cache_read: Count = 0
    cache_write_5m: Count = 0
    cache_write_1h: Count = 0

    @property
    def total(self) -> int:
        return self.input + self.output + self.cache_read + self.cache_write_5m + self.cache_write_1h


class Price(Value):
    """What a million tokens of each class cost, in the currency of `Rates`."""

    input: Amount
    output: Amount
    cache_read: Amount
    cache_write_5m: Amount
    cache_write_1h: Amount


class Tier(Value):
    """The price of a call with more input (all classes but output) than `above_input_tokens`."""

    above_input_tokens: Annotated[int, Field(ge=1, le=2**63 - 1)]
    price: Price


class Rates(Value):
    """All that a call's cost depends on besides its usage, pinned when it is reserved."""

    price: Price
    tiers: Annotated[tuple[Tier, ...], Field(max_length=8)] = ()
    """Ascending."""
    server_tools: Annotated[dict[Name, Amount], Field(max_length=16)] = {}
    """Per use."""
    multiplier_max: Amount
    """The dearest way the provider may bill the call (faster service, place), as a factor; the hold is made with it."""
    currency: Currency
    cad: Amount
    """What one unit of the currency is worth in CAD."""
    price_id: Digest
    """Of the price table it comes from; its PriceTableLoaded says more."""
    is_free: bool = False


class PriceTableLoaded(BudgetEvent):
    """Prices of models from now on. Said by budget on the hub's account, once per table."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    price_id: Digest
    source: Name
    """e.g. `genai-prices 0.2.3` with the hub's own prices."""
    as_of: Time
    models: Count
    cad_per: Annotated[dict[Currency, Amount], Field(max_length=32)]
    """Exchange rates used with it: what one unit is worth in CAD."""


class CallReserved(BudgetEvent):
    """The worst case of a model call is set aside; it is forwarded only after this is durable. Said by budget."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    call_id: Id
    epoch: Epoch
    provider: Name
    model: Name
    mode: HoldMode = HoldMode.STRICT
    bound: Tokens
    """At most so many; `output` is the `max_tokens` that is forwarded."""
    server_tools: ServerTools = {}
    rates: Rates
    held: Annotated[dict[Resource, Amount], Field(max_length=8)]
    """money in CAD, tokens, api_calls."""
    session_id: Name | None = None


class CallObserved(BudgetEvent):
    """The provider has said what went in; if the call is lost now, that much is known. Said by budget."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    call_id: Id
    tokens: Tokens


class CallSettled(BudgetEvent):
    """A model call is over and this is what it used and cost; its hold is gone. Said by budget."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    call_id: Id
    epoch: Epoch
    machine_type: MachineType | None = None
    provider: Name
    model: Name
    tokens: Tokens
    thinking_tokens: Count = 0
    """A part of `tokens.output`."""
    server_tools: ServerTools = {}
    multiplier: Amount
    """How it was billed: 0.5 for a batch, 1.1 for a place, …"""
    cost_cad: Amount
    cost: Amount
    currency: Currency
    price_id: Digest
    estimated: bool = False
    """The provider did not say, or it was not heard: at most what was set aside, at least what is known."""
    reason: Text = ""
    """Why it is estimated."""
    http_status: Annotated[int, Field(ge=0, le=999)] = 200
    request_id: Name | None = None
    """The provider's."""
    session_id: Name | None = None
    stop_reason: Name | None = None
    began_at: Time
    ended_at: Time
    first_chunk_ms: Count | None = None


class CallVoided(BudgetEvent):
    """A model call came to nothing and cost nothing: never forwarded, or refused by the provider. Said by budget.

    It may come before any CallReserved: whoever asked gave up while the reservation was on its way, and it is not granted.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    call_id: Id
    epoch: Epoch
    reason: Text
    http_status: Annotated[int, Field(ge=0, le=999)] = 0


class CallCorrected(BudgetEvent):
    """What a settled call really cost came out later. Said by budget, with what it changes on the accounts above."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    call_id: Id
    tokens: Tokens
    cost_cad: Amount
    """The whole cost, in place of the settled one."""
    reason: Text


class CallRefused(BudgetEvent):
    """A model call was not forwarded because something is used up. Said by budget, once per machine, epoch and resource.

    With `park` it is one batch with a MachineHeld of the machine.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    call_id: Id
    epoch: Epoch
    model: Name
    node: Name
    """The account that is short: `_hub`, a slug or a machine's id."""
    resource: Resource
    unit: Unit
    asked: Amount
    available: Amount
    action: OnExhausted
    reason: Text
