"""Reading what people type: money, sizes, times."""

import re
from decimal import Decimal, InvalidOperation

from cli.exits import CliError, Exit

_MONEY = re.compile(r"(\d+(?:\.\d{1,9})?)\s*([A-Za-z]{3})?")
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt])?i?b?", re.IGNORECASE)
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_MIB = {None: 1.0, "k": 1 / 1024, "m": 1.0, "g": 1024.0, "t": 1024.0 * 1024}


def money(text: str, option: str) -> tuple[str, str]:
    """Read `5CAD`, `0.50 CAD` or `5` as amount and currency (CAD unless said).

    Raises:
        CliError: Not an amount; the message shows what is.
    """
    match = _MONEY.fullmatch(text.strip())
    if match is None:
        raise CliError(Exit.USAGE, f"{option} {text!r} is not an amount of money", remedy=f"{option} 5CAD")
    return match[1], (match[2] or "CAD").upper()


def seconds(text: str, option: str) -> int:
    match = _TIME.fullmatch(text.strip())
    if match is None or round(float(match[1]) * _SECONDS[match[2]]) < 1:
        raise CliError(
            Exit.USAGE, f"{option} {text!r} is not a time of at least 1 s", remedy=f"{option} 90s, 15m, 2h, 1d"
        )
    return round(float(match[1]) * _SECONDS[match[2]])


def mebibytes(text: str, option: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    value = float(match[1]) * _MIB[match[2].lower() if match[2] else None] if match else 0
    if value < 1:
        raise CliError(Exit.USAGE, f"{option} {text!r} is not a size of at least 1 MiB", remedy=f"{option} 512M, 2G")
    return round(value)


def cores(text: str, option: str) -> int:
    """Read a number of cores as thousandths."""
    try:
        milli = int(Decimal(text) * 1_000)
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise CliError(Exit.USAGE, f"{option} {text!r} is not a number of cores", remedy=f"{option} 0.5") from error
    return milli


def greediness(text: str) -> str:
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise CliError(Exit.USAGE, f"--greediness {text!r} is not a number", remedy="--greediness 0.7") from error
    if not value.is_finite() or not 0 <= value <= 1:
        raise CliError(Exit.USAGE, f"--greediness {text} is not between 0.0 and 1.0")
    return str(value.quantize(Decimal("0.01")))
