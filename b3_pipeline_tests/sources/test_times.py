"""When a source is asked: on sessions, within its hours, on its grid."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.sessions import is_session, to_local, to_utc
from b3_pipeline.sources.times import Due, Times

EVENING = Times(time(19, 25), time(23, 45), timedelta(minutes=5), once=True)
GRID = Times(time(8, 50), time(18, 30), timedelta(minutes=5), offset=timedelta(seconds=20))
MOMENTS = st.datetimes(datetime(2019, 1, 1), datetime(2027, 1, 1))


def after(times: Times, now: str, have: date | None = None) -> str:
    return to_local(times.next(to_utc(datetime.fromisoformat(now)), have)).isoformat(sep=" ", timespec="minutes")


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2025-10-14T09:00", "2025-10-14 19:25"),
        ("2025-10-14T19:25", "2025-10-14 19:30"),
        ("2025-10-14T23:45", "2025-10-15 19:25"),
        ("2025-10-10T23:50", "2025-10-13 19:25"),  # over the weekend
        ("2025-12-23T23:50", "2025-12-26 19:25"),  # B3 is closed on the 24th and 25th
    ],
)
def test_the_next_time_is_on_the_grid_of_a_session(now: str, expected: str) -> None:
    assert after(EVENING, now) == expected


def test_what_is_there_is_not_asked_for_again_that_day() -> None:
    assert after(EVENING, "2025-10-14T19:40", have=date(2025, 10, 14)) == "2025-10-15 19:25"


def test_a_day_that_is_behind_does_not_keep_todays_from_being_asked() -> None:
    assert after(EVENING, "2025-10-14T19:40", have=date(2025, 10, 13)) == "2025-10-14 19:45"


def test_the_session_before_is_asked_for_until_it_is_there() -> None:
    late = Times(time(8), time(17), timedelta(hours=1), once=True, back=1)
    assert (
        after(late, "2025-10-13T07:00", have=date(2025, 10, 9)) == "2025-10-13 08:00"
    )  # a Monday: Friday's is missing
    assert after(late, "2025-10-13T07:00", have=date(2025, 10, 10)) == "2025-10-14 08:00"


@given(MOMENTS)
def test_the_next_time_is_later_and_within_the_hours_of_a_session(now: datetime) -> None:
    moment = GRID.next(now)
    local = to_local(moment) - GRID.offset
    assert moment > now
    assert is_session(local.date())
    assert time(8, 50) <= local.time() <= time(18, 30)
    assert (local.minute % 5, local.second) == (0, 0)


@given(MOMENTS)
def test_nothing_is_expected_that_lies_ahead_and_more_is_due_later(now: datetime) -> None:
    due = Due(time(9), age=timedelta(minutes=15), until=time(18, 30))
    assert due.expected(now) <= now < due.next(now)
