"""Settings of the budget."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import Field

from domain.tariff import CAD_PER_HOUR_MAX, CAD_PER_STORAGE_HOUR_MAX, Tariff
from events.call import Currency
from events.ledger import LEASE_S
from services.budget.own_prices import OwnPrice
from services.kit.settings import ServiceSettings

ExchangeRate = Annotated[Decimal, Field(gt=0, le=1_000_000, decimal_places=9, allow_inf_nan=False)]


class BudgetSettings(ServiceSettings):
    """What the budget needs to know; the tariff must be the spawner's."""

    machines_max: int = Field(default=64, ge=0, le=100_000)
    """How many machines may hold a reservation at once, over all projects."""
    queued_max: int = Field(default=1_000, ge=0, le=100_000)
    """How many machines of one project may wait; what is requested beyond that ends at once."""
    vcpu_hour_cad: Decimal = Field(default=Tariff().vcpu_hour_cad, ge=0, le=CAD_PER_HOUR_MAX, decimal_places=9)
    """What a virtual core costs by the hour, CAD."""
    gib_hour_cad: Decimal = Field(default=Tariff().gib_hour_cad, ge=0, le=CAD_PER_HOUR_MAX, decimal_places=9)
    """What a GiB of memory costs by the hour, CAD."""
    storage_gib_hour_cad: Decimal = Field(
        default=Tariff().storage_gib_hour_cad, ge=0, le=CAD_PER_STORAGE_HOUR_MAX, decimal_places=9
    )
    """What a GiB of disk costs by the hour, CAD."""
    queue_look_s: float = Field(default=30.0, gt=0, le=3_600)
    """How often queued machines are tried though nothing was heard: a period that ends says nothing."""
    slice_cad: Decimal = Field(default=Decimal("0.25"), ge=0, le=1_000, decimal_places=9)
    """What is set aside at once when a machine without a budget of its own needs more for its model calls, CAD."""
    elastic_cad: Decimal = Field(default=Decimal("0.05"), ge=0, le=1_000, decimal_places=9)
    """How far beyond what is set aside a call in the mode `elastic` may go, CAD."""
    draw_s: float = Field(default=1.0, gt=0, le=60)
    """How long what calls have used may count as reserved only on the accounts of project and hub."""
    calls_look_s: float = Field(default=0.1, gt=0, le=10)
    """How often calls that wait are looked at."""
    call_lease_s: float = Field(default=LEASE_S, gt=0, le=600)
    """How long an open call lives without being renewed by its gateway."""

    prices_path: Path | None = None
    """A TOML file with the hub's own prices of models; it counts before the packaged ones."""
    prices_own: tuple[OwnPrice, ...] = Field(default=(), max_length=1_000)
    """The same as JSON, counted before the file, e.g. `[{"model":"local-*","provider":"vllm","free":true}]`."""
    prices_packaged: bool = True
    """Whether the prices of the package genai-prices count; without them only the hub's own models can be called."""
    cad_per_usd: ExchangeRate = Decimal("1.40")
    """What a US dollar is worth in CAD; providers bill in it. Set it to your bank's rate."""
    cad_per: dict[Currency, ExchangeRate] = Field(default={}, max_length=30)
    """The same for other currencies, as JSON by their code, e.g. `{"EUR":"1.62"}`."""
    exchange_as_of: date = date(2026, 11, 1)
    """The day of these exchange rates (and of own prices that say none)."""

    @property
    def cad_per_currency(self) -> dict[str, Decimal]:
        """What one unit of each known currency is worth in CAD."""
        return {**self.cad_per, "USD": self.cad_per_usd, "CAD": Decimal(1)}

    @property
    def tariff(self) -> Tariff:
        return Tariff(self.vcpu_hour_cad, self.gib_hour_cad, self.storage_gib_hour_cad)
