"""Settings of the budget."""

from decimal import Decimal

from pydantic import Field

from domain.tariff import CAD_PER_HOUR_MAX, Tariff
from services.kit.settings import ServiceSettings


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
    queue_look_s: float = Field(default=30.0, gt=0, le=3_600)
    """How often queued machines are tried though nothing was heard: a period that ends says nothing."""

    @property
    def tariff(self) -> Tariff:
        return Tariff(self.vcpu_hour_cad, self.gib_hour_cad)
