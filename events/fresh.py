"""The one impure corner of the contract: new ids and the time. `domain` never imports it."""

import os
import time
from datetime import UTC, datetime
from uuid import UUID


def uuid7() -> UUID:
    """Return a new time-ordered id: 48 bits of unix milliseconds, then 74 random bits (RFC 9562)."""
    stamp_ms = time.time_ns() // 1_000_000
    value = (stamp_ms & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def now() -> datetime:
    return datetime.now(UTC)
