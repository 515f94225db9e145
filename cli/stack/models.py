"""Who answers model calls in the embedded stack: the providers that are set up, else the rehearsal model."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.exits import CliError, Exit
from events.words import MachineType
from services.budget.own_prices import OwnPrice
from services.gateway.context import Dialect
from services.gateway.settings import GatewaySettings, Upstream
from services.intake.settings import DEFAULT_MODELS
from services.rehearsal import app as rehearsal
from services.rehearsal.script import BadScript

SCRIPTS = Path(__file__).resolve().parents[2] / "examples" / "rehearsal"
REHEARSED = "rehearsed (no provider is set up: set ANTHROPIC_API_KEY to have a real model at work)"


@dataclass(frozen=True, slots=True)
class Models:
    """What gateway, budget and intake are told beyond their settings."""

    upstreams: tuple[Upstream, ...] = ()
    prices: tuple[OwnPrice, ...] = ()
    defaults: dict[MachineType, str] | None = None
    """By machine type; None: the intake's own."""


def described() -> str:
    """Return in a few words who answers model calls."""
    upstreams = GatewaySettings().upstreams()
    return ", ".join(upstream.name for upstream in upstreams) or REHEARSED


@asynccontextmanager
async def running() -> AsyncGenerator[Models]:
    """Start the rehearsal model where no provider is set up; stop it in the end.

    Raises:
        CliError: A script of it cannot be read.
    """
    if GatewaySettings().upstreams():
        yield Models()
        return
    try:
        async with rehearsal.running([SCRIPTS] if SCRIPTS.is_dir() else []) as (_, url):
            upstreams = tuple(
                Upstream(name=f"rehearsal-{dialect}", protocol=dialect, base_url=url, price_provider="rehearsal")
                for dialect in Dialect
            )
            prices = tuple(OwnPrice.model_validate(price) for price in rehearsal.PRICES)
            yield Models(upstreams, prices, dict.fromkeys(DEFAULT_MODELS, rehearsal.MODELS[0]))
    except BadScript as error:
        raise CliError(Exit.FAILED, str(error)) from error
