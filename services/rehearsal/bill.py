"""What the rehearsal model would charge, reckoned by itself in whole billionths of a dollar: a ledger to compare others with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

NANO_PER_TOKEN = {"input": 3_000, "output": 15_000, "cache_read": 300, "cache_write_5m": 3_750, "cache_write_1h": 6_000}
"""USD 3 and 15 a million for input and output; reading a cache a tenth, writing one 1.25 and 2 times the input."""
BYTES_PER_TOKEN = 4
CACHED_OF_10 = 8
"""So many tenths of the input are in the cache when a request asks for one."""
BILL_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by class, no class part of another."""

    input: int
    output: int
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0

    @property
    def all_input(self) -> int:
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h

    @property
    def nano_usd(self) -> int:
        return sum(getattr(self, name) * price for name, price in NANO_PER_TOKEN.items())


@dataclass(frozen=True, slots=True)
class Charge:
    """One line of the bill."""

    request_id: str
    model: str
    usage: Usage


@dataclass(slots=True)
class Bill:
    """All that was charged, the newest `BILL_MAX`."""

    charges: dict[str, Charge] = field(default_factory=dict[str, Charge])

    def charge(self, charge: Charge) -> None:
        self.charges[charge.request_id] = charge
        while len(self.charges) > BILL_MAX:
            del self.charges[next(iter(self.charges))]

    @property
    def nano_usd(self) -> int:
        return sum(charge.usage.nano_usd for charge in self.charges.values())


def usage(body_bytes: int, answer_chars: int, cache: str, *, first: bool) -> Usage:
    """Return what an exchange uses: about a token for four bytes, and with `cache` ("", "5m", "1h") as a cache would have it."""
    tokens = max(1, body_bytes // BYTES_PER_TOKEN)
    output = max(1, answer_chars // BYTES_PER_TOKEN)
    if not cache:
        return Usage(tokens, output)
    cached = tokens * CACHED_OF_10 // 10
    rest = tokens - cached
    written: Mapping[str, int] = {f"cache_write_{cache}": cached if first else rest // 2}
    return Usage(rest - (0 if first else rest // 2), output, 0 if first else cached, **written)
