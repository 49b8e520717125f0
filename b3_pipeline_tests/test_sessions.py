"""The calendar agrees with B3's, and local time with the clocks of Brasília."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from b3_pipeline import sessions
from b3_pipeline.sessions import NonexistentTime

DAYS = st.dates(date(1971, 1, 1), date(2261, 12, 31))
SECONDS = st.integers(0, 86_399)


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (date(2025, 1, 6), True),
        (date(2025, 1, 4), False),  # Saturday
        (date(2025, 3, 4), False),  # Carnival
        (date(2025, 3, 5), True),  # Ash Wednesday, a short session
        (date(2022, 1, 25), True),  # São Paulo's birthday, no longer a holiday of the exchange
        (date(2025, 12, 24), False),
        (date(2025, 12, 31), False),
        (date(2024, 11, 20), False),
    ],
)
def test_a_day_is_a_session_when_b3_trades(day: date, expected: bool) -> None:
    assert sessions.is_session(day) is expected


@pytest.mark.parametrize(
    ("first", "end", "days"),
    [
        (date(2026, 1, 12), date(2027, 1, 4), 243),  # as B3's report of that day reckons its DI1s
        (date(2026, 1, 12), date(2039, 1, 3), 3_248),
        (date(2023, 2, 2), date(2024, 10, 1), 416),
        (date(2025, 12, 24), date(2025, 12, 27), 2),  # Christmas is everybody's
        (date(2023, 12, 29), date(2024, 1, 2), 1),  # the year's last weekday
        (date(2019, 7, 9), date(2019, 7, 10), 1),  # then a holiday of the exchange's city alone
        (date(2019, 11, 20), date(2019, 11, 21), 1),
        (date(2024, 11, 20), date(2024, 11, 21), 0),
        (date(2025, 3, 3), date(2025, 3, 3), 0),
    ],
)
def test_banks_work_on_days_on_which_the_exchange_does_not(first: date, end: date, days: int) -> None:
    assert sessions.bank_days(first, end) == days


def test_beyond_the_calendar_every_weekday_is_a_session() -> None:
    assert sessions.is_session(date(1960, 12, 25)) is False  # Sunday
    assert sessions.is_session(date(1961, 12, 25)) is True
    assert sessions.session_of(date(2300, 1, 7)) == date(2300, 1, 5)


@given(DAYS)
def test_a_days_session_is_the_day_itself_or_the_one_before_it(day: date) -> None:
    session, before = sessions.session_of(day), sessions.session_before(day)
    assert sessions.is_session(session)
    assert session == (day if sessions.is_session(day) else before)
    assert before < day
    between = [before + timedelta(days=n) for n in range(1, (day - before).days)]
    assert not any(sessions.is_session(each) for each in between)


@pytest.mark.parametrize(
    ("local", "utc"),
    [
        (datetime.fromisoformat("2025-10-03T08:50:00"), datetime.fromisoformat("2025-10-03T11:50:00")),
        (
            datetime.fromisoformat("2018-11-05T09:00:00"),
            datetime.fromisoformat("2018-11-05T11:00:00"),
        ),  # daylight saving time
        (
            datetime.fromisoformat("2019-02-16T23:30:00"),
            datetime.fromisoformat("2019-02-17T01:30:00"),
        ),  # met twice: the earlier
        (datetime.fromisoformat("2019-02-17T00:00:00"), datetime.fromisoformat("2019-02-17T03:00:00")),
    ],
)
def test_local_time_becomes_true_utc(local: datetime, utc: datetime) -> None:
    assert sessions.to_utc(local) == utc
    assert sessions.to_local(utc) == local


def test_a_local_time_that_never_was_is_refused() -> None:
    with pytest.raises(NonexistentTime):
        sessions.to_utc(datetime.fromisoformat("2018-11-04T00:30:00"))


def test_a_moment_with_a_zone_becomes_local_by_its_zone() -> None:
    assert sessions.to_local(datetime(2025, 1, 8, 12, 0, tzinfo=UTC)) == datetime.fromisoformat("2025-01-08T09:00:00")


@given(st.lists(st.tuples(DAYS, SECONDS)))
@example([(date(2018, 11, 4), 0), (date(2018, 11, 4), 3599), (date(2018, 11, 4), 3600), (date(2019, 2, 16), 86_399)])
@example([])
def test_many_times_become_what_each_of_them_becomes(moments: list[tuple[date, int]]) -> None:
    days = np.array([day for day, _ in moments], dtype="datetime64[D]")
    seconds = np.array([second for _, second in moments], dtype=np.int64)
    utc, nonexistent = sessions.days_and_seconds_to_utc(days, seconds)
    locals_ = [datetime.combine(day, time()) + timedelta(seconds=second) for day, second in moments]
    for place, local in enumerate(locals_):
        if nonexistent[place]:
            assert np.isnat(utc[place])
            with pytest.raises(NonexistentTime):
                sessions.to_utc(local)
        else:
            assert utc[place].item() == sessions.to_utc(local)
    assert sessions.trade_dates(days, seconds).tolist() == [sessions.trade_date(local) for local in locals_]


@pytest.mark.parametrize("year", range(1985, 2020))
def test_every_hour_of_every_year_with_daylight_saving_agrees(year: int) -> None:
    days = np.repeat(np.arange(f"{year}-01-01", f"{year + 1}-01-01", dtype="datetime64[D]"), 2)
    seconds = np.tile([1800, 84_600], len(days) // 2)
    utc, nonexistent = sessions.days_and_seconds_to_utc(days, seconds)
    for day, second, moment, never in zip(days.tolist(), seconds.tolist(), utc.tolist(), nonexistent, strict=True):
        local = datetime.combine(day, time()) + timedelta(seconds=second)
        try:
            assert moment == sessions.to_utc(local)
        except NonexistentTime:
            assert never


def test_before_six_in_the_evening_a_value_belongs_to_the_session_before() -> None:
    assert sessions.trade_date(datetime.fromisoformat("2025-01-07T17:59:59")) == date(2025, 1, 6)
    assert sessions.trade_date(datetime.fromisoformat("2025-01-07T18:00:00")) == date(2025, 1, 7)
    assert sessions.trade_date(datetime.fromisoformat("2025-01-05T20:00:00")) == date(2025, 1, 3)  # Sunday evening
