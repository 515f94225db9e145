"""Days, weeks and months in named time zones."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from domain.periods import TOTAL_START, Span, UnknownZone, following_span, span_at, zone_named
from events.words import BudgetPeriod

TORONTO = "America/Toronto"
PERIODS = [BudgetPeriod.DAILY, BudgetPeriod.WEEKLY, BudgetPeriod.MONTHLY]


def utc(*parts: int) -> datetime:
    year, month, day, *clock = parts
    return datetime(year, month, day, *clock, tzinfo=UTC)


def test_a_day_begins_at_the_zones_midnight_not_at_utcs() -> None:
    assert span_at(BudgetPeriod.DAILY, TORONTO, utc(2026, 1, 10, 3)) == Span(utc(2026, 1, 9, 5), utc(2026, 1, 10, 5))


@pytest.mark.parametrize(("day", "hours"), [(utc(2026, 3, 8, 12), 23), (utc(2026, 11, 1, 12), 25)])
def test_a_day_on_which_clocks_change_has_23_or_25_hours(day: datetime, hours: int) -> None:
    span = span_at(BudgetPeriod.DAILY, TORONTO, day)
    assert span.end is not None
    assert span.end - span.start == timedelta(hours=hours)


def test_a_week_begins_on_monday() -> None:
    assert span_at(BudgetPeriod.WEEKLY, "UTC", utc(2026, 3, 8, 23, 59)) == Span(utc(2026, 3, 2), utc(2026, 3, 9))
    assert span_at(BudgetPeriod.WEEKLY, "UTC", utc(2026, 3, 9)) == Span(utc(2026, 3, 9), utc(2026, 3, 16))


def test_a_month_begins_on_its_first_and_december_is_followed_by_january() -> None:
    assert span_at(BudgetPeriod.MONTHLY, "UTC", utc(2024, 2, 29)) == Span(utc(2024, 2, 1), utc(2024, 3, 1))
    assert span_at(BudgetPeriod.MONTHLY, "UTC", utc(2025, 12, 31)) == Span(utc(2025, 12, 1), utc(2026, 1, 1))


def test_a_total_has_one_beginning_whatever_the_time_and_no_end() -> None:
    assert span_at(BudgetPeriod.TOTAL, TORONTO, utc(2026, 1, 1)) == Span(TOTAL_START, None)


def test_a_day_whose_midnight_is_skipped_begins_when_clocks_jump() -> None:
    beirut = span_at(BudgetPeriod.DAILY, "Asia/Beirut", utc(2024, 3, 31, 12))
    assert beirut.start == utc(2024, 3, 30, 22)
    assert beirut.start.astimezone(ZoneInfo("Asia/Beirut")).hour == 1


def test_a_day_that_a_zone_leaves_out_belongs_to_nobody() -> None:
    assert span_at(BudgetPeriod.DAILY, "Pacific/Apia", utc(2011, 12, 30, 10)).start == utc(2011, 12, 30, 10)


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "America", "/etc/localtime", "a\0b"])
def test_a_zone_that_does_not_exist_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnknownZone):
        zone_named(name)


@given(
    zone=st.sampled_from(sorted(available_timezones() - {"localtime", "posixrules", "Factory"})),
    period=st.sampled_from(PERIODS),
    now=st.datetimes(datetime(1980, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
@example(zone="America/St_Johns", period=BudgetPeriod.DAILY, now=utc(2006, 10, 29, 2, 45))
def test_every_moment_is_in_one_period_and_periods_follow_each_other_without_gap(
    zone: str, period: BudgetPeriod, now: datetime
) -> None:
    span = span_at(period, zone, now)
    assert span.end is not None
    assert span.start <= now < span.end
    assert span_at(period, zone, span.start) == span
    assert span_at(period, zone, span.end - timedelta(microseconds=1)) == span
    assert span_at(period, zone, span.end).start == span.end


def test_an_account_that_moves_to_another_zone_never_has_overlapping_periods() -> None:
    end = utc(2026, 1, 10, 5)
    assert following_span(BudgetPeriod.DAILY, "UTC", utc(2026, 1, 10, 6), after=end) == Span(end, utc(2026, 1, 11))
