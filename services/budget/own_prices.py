"""The hub's own prices: models that nobody else prices, that cost something else here, or that are free.

A TOML file, a table `[[models]]` per entry, or the same as JSON in a setting. The first entry that fits counts.
"""

import fnmatch
import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from domain.pricing import FAST
from events.call import Currency, Price, Rates, Tier

FILE_BYTES_MAX = 1024 * 1024
MODELS_MAX = 10_000

PerMillion = Annotated[Decimal, Field(ge=0, le=1_000_000, decimal_places=9, allow_inf_nan=False)]


class OwnPricesWrong(ValueError):
    """The hub's own prices cannot be read; the message says which entry, and what would be right."""


class OwnTier(BaseModel):
    """What a million tokens cost in a call with more input than `above_input_tokens`; what is not said is as below it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    above_input_tokens: Annotated[int, Field(ge=1, le=2**63 - 1)]
    input: PerMillion
    output: PerMillion
    cache_read: PerMillion | None = None
    cache_write_5m: PerMillion | None = None
    cache_write_1h: PerMillion | None = None


class OwnPrice(BaseModel):
    """What one model, or all whose name fits a pattern, cost; per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, Field(min_length=1, max_length=200)]
    """A name, or a shell pattern like `qwen3-*`."""
    provider: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """None: whoever offers it."""
    free: bool = False
    currency: Currency = "USD"
    input: PerMillion | None = None
    output: PerMillion | None = None
    cache_read: PerMillion | None = None
    """None: as `input`."""
    cache_write_5m: PerMillion | None = None
    """None: as `input`."""
    cache_write_1h: PerMillion | None = None
    """None: as `cache_write_5m`."""
    tiers: Annotated[tuple[OwnTier, ...], Field(max_length=8)] = ()
    server_tools: Annotated[dict[str, PerMillion], Field(max_length=16)] = {}
    """Per use."""
    multiplier_max: Annotated[Decimal, Field(ge=1, le=100, decimal_places=4)] = Decimal(1)
    """The dearest way the provider may bill it, as a factor."""

    @model_validator(mode="after")
    def _is_priced_or_free(self) -> Self:
        if self.free and (self.input is not None or self.output is not None):
            raise ValueError("free and a price at once; leave one out")
        if not self.free and (self.input is None or self.output is None):
            raise ValueError("needs `input` and `output` (per million tokens), or `free = true`")
        return self

    def rates(self, cad: Decimal, price_id: str, speed: str | None) -> Rates:
        price = _price(self)
        ascending = sorted(self.tiers, key=lambda tier: tier.above_input_tokens)
        return Rates(
            price=price,
            tiers=tuple(Tier(above_input_tokens=tier.above_input_tokens, price=_price(tier)) for tier in ascending),
            server_tools=self.server_tools,
            multiplier_max=self.multiplier_max * (FAST if speed == "fast" else 1),
            currency=self.currency,
            cad=cad,
            price_id=price_id,
            is_free=self.free,
        )


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Annotated[tuple[OwnPrice, ...], Field(max_length=MODELS_MAX)] = ()
    as_of: date | None = None


@dataclass(frozen=True, slots=True)
class OwnPrices:
    """The list, in the order in which it counts."""

    entries: tuple[OwnPrice, ...]
    as_of: datetime
    digest: str

    def __len__(self) -> int:
        return len(self.entries)

    @classmethod
    def read(cls, path: Path | None, inline: Sequence[OwnPrice], as_of: date) -> Self:
        """Read the file, if any; what stands in the setting counts before it. `as_of`: for a list that says no date.

        Raises:
            OwnPricesWrong: The file is not what it should be.
        """
        file = _File() if path is None else _read(path)
        entries = (*inline, *file.models)
        text = "\n".join(entry.model_dump_json() for entry in entries)
        dated = datetime.combine(file.as_of or as_of, datetime.min.time(), UTC)
        return cls(entries, dated, hashlib.sha256(text.encode()).hexdigest())

    def find(self, provider: str | None, model: str) -> OwnPrice | None:
        """Return the first entry that fits."""
        for entry in self.entries:
            if entry.provider is not None and provider is not None and entry.provider != provider:
                continue
            if fnmatch.fnmatchcase(model.lower(), entry.model.lower()):
                return entry
        return None


def _price(of: OwnPrice | OwnTier) -> Price:
    plain = of.input or Decimal(0)
    written = plain if of.cache_write_5m is None else of.cache_write_5m
    return Price(
        input=plain,
        output=of.output or Decimal(0),
        cache_read=plain if of.cache_read is None else of.cache_read,
        cache_write_5m=written,
        cache_write_1h=written if of.cache_write_1h is None else of.cache_write_1h,
    )


def _read(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
        if len(text) > FILE_BYTES_MAX:
            raise OwnPricesWrong(f"{path}: larger than {FILE_BYTES_MAX} bytes")
        return _File.model_validate(tomllib.loads(text.decode(), parse_float=Decimal))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OwnPricesWrong(f"{path}: {error}; a TOML file with a table [[models]] per model is expected") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise OwnPricesWrong(f"{path}: {where}: {first['msg']}") from error
