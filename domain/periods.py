"""When a day, a week and a month begin and end in a named time zone; a total begins with the epoch and never ends.

Boundaries are `[start, end)`. A day is what the zone says: 23 or 25 hours when clocks change. Weeks start on Monday.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from events.words import BudgetPeriod

TOTAL_START = datetime(1970, 1, 1, tzinfo=UTC)
"""Where every total begins: a total counts everything, so its start may not depend on when somebody set it."""


class UnknownZone(ValueError):
    """There is no time zone of this name; take one of the IANA database, like `America/Toronto` or `UTC`."""


@dataclass(frozen=True, slots=True)
class Span:
    """`[start, end)` in UTC; no end: a total."""

    start: datetime
    end: datetime | None


def zone_named(name: str) -> tzinfo:
    """Look up a time zone; `UTC` is there even on a host without the time zone database.

    Raises:
        UnknownZone: No such zone.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # a directory of the database is an OSError
        raise UnknownZone(f"time zone {name[:64]!r} does not exist; use an IANA name like 'America/Toronto'") from error


def span_at(period: BudgetPeriod, zone: str, now: datetime) -> Span:
    """Return the period of this kind that `now` is in.

    Raises:
        UnknownZone: No such zone.
    """
    if period is BudgetPeriod.TOTAL:
        return Span(TOTAL_START, None)
    info = zone_named(zone)
    first = _first_day(period, now.astimezone(info).date())
    following = _following(period, first)
    # Clocks that go back over midnight (St. John's until 2011) put minutes of the old date after the new day's start.
    while now >= _midnight(following, info):
        first, following = following, _following(period, following)
    return Span(_midnight(first, info), _midnight(following, info))


def following_span(period: BudgetPeriod, zone: str, now: datetime, after: datetime) -> Span:
    """Return the period that `now` is in, not beginning before `after`: periods of one account never overlap.

    They would where somebody moves an account to another time zone.
    """
    span = span_at(period, zone, now)
    return Span(max(span.start, after), span.end)


def periods_between(period: BudgetPeriod, zone: str, start: datetime, end: datetime) -> int:
    """Return how many whole periods lie between the beginnings of two of them, 0 where they are the same one."""
    info = zone_named(zone)
    first, last = start.astimezone(info).date(), end.astimezone(info).date()
    match period:
        case BudgetPeriod.TOTAL:
            return 0
        case BudgetPeriod.DAILY:
            count = (last - first).days
        case BudgetPeriod.WEEKLY:
            count = (_first_day(period, last) - _first_day(period, first)).days // 7
        case BudgetPeriod.MONTHLY:
            count = (last.year - first.year) * 12 + last.month - first.month
    return max(0, count)


def _first_day(period: BudgetPeriod, day: date) -> date:
    if period is BudgetPeriod.WEEKLY:
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if period is BudgetPeriod.MONTHLY else day


def _following(period: BudgetPeriod, first: date) -> date:
    if period is BudgetPeriod.WEEKLY:
        return first + timedelta(days=7)
    if period is BudgetPeriod.MONTHLY:
        return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days=1)


def _midnight(day: date, info: tzinfo) -> datetime:
    """The first instant of a day: `fold=0` is the first of two midnights, and the jump itself where there is none."""
    return datetime.combine(day, time(), info).astimezone(UTC)
