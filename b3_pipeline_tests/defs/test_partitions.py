"""The calendar of partitions: each session before it opens, nothing else, ever."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from b3_pipeline import sessions
from b3_pipeline.defs.partitions import SESSIONS, session_partitions, window_of
from b3_pipeline.sessions import ALWAYS, ZONE


def listed(local: str, calendar: dg.TimeWindowPartitionsDefinition = SESSIONS) -> Sequence[str]:
    """The partitions that there are at a local time."""
    with dg.partition_loading_context(effective_dt=datetime.fromisoformat(local).replace(tzinfo=ZONE)):
        return calendar.get_partition_keys()


@pytest.mark.parametrize(
    ("now", "last_two"),
    [
        pytest.param("2025-11-19T12:00", ["2025-11-18", "2025-11-19"], id="a session: today's is there while it runs"),
        pytest.param("2025-11-19T07:00", ["2025-11-18", "2025-11-19"], id="two hours before B3 opens"),
        pytest.param("2025-11-19T18:30", ["2025-11-18", "2025-11-19"], id="when the last contract closes"),
        pytest.param("2025-11-19T23:59", ["2025-11-18", "2025-11-19"], id="the evening before a holiday"),
        pytest.param(
            "2025-11-18T23:59", ["2025-11-17", "2025-11-18"], id="before local midnight, though UTC is past it"
        ),
        pytest.param("2025-11-20T12:00", ["2025-11-18", "2025-11-19"], id="a holiday between two sessions"),
        pytest.param("2025-11-22T12:00", ["2025-11-19", "2025-11-21"], id="a Saturday"),
        pytest.param("2025-11-23T23:59", ["2025-11-19", "2025-11-21"], id="a Sunday evening"),
        pytest.param("2025-12-24T12:00", ["2025-12-22", "2025-12-23"], id="Christmas Eve, on which only B3 is closed"),
        pytest.param("2025-12-31T12:00", ["2025-12-29", "2025-12-30"], id="the last day of a year"),
        pytest.param("2026-01-01T12:00", ["2025-12-29", "2025-12-30"], id="the first day of a year"),
        pytest.param("2026-01-02T09:00", ["2025-12-30", "2026-01-02"], id="the first session of a year"),
        pytest.param("2026-02-17T12:00", ["2026-02-12", "2026-02-13"], id="carnival"),
        pytest.param("2018-11-05T08:00", ["2018-11-01", "2018-11-05"], id="the session after the clocks went forward"),
        pytest.param("2019-02-18T07:00", ["2019-02-15", "2019-02-18"], id="the session after the clocks went back"),
    ],
)
def test_the_partitions_end_with_the_session_that_runs_or_ran_last(now: str, last_two: list[str]) -> None:
    assert list(listed(now)[-2:]) == last_two


def test_every_partition_is_a_session_and_every_session_a_partition() -> None:
    keys = listed("2026-11-22T12:00")
    days = (date(2018, 1, 2) + timedelta(n) for n in range((date(2026, 11, 22) - date(2018, 1, 2)).days + 1))
    assert list(keys) == [day.isoformat() for day in days if sessions.is_session(day)]


def test_the_calendar_is_the_same_for_the_webserver_which_knows_only_its_description() -> None:
    from dagster._core.definitions.partitions.snap import PartitionsSnap

    described = PartitionsSnap.from_def(SESSIONS).get_partitions_definition()
    assert isinstance(described, dg.TimeWindowPartitionsDefinition)
    for now in ("2025-11-20T12:00", "2025-12-24T12:00", "2025-11-19T12:00"):
        assert listed(now, described) == listed(now)


def test_the_first_session_is_a_setting() -> None:
    assert listed("2024-01-05T12:00", session_partitions(date(2024, 1, 1))) == [
        "2024-01-02",
        "2024-01-03",
        "2024-01-04",
        "2024-01-05",
    ]


def test_a_run_over_no_partition_is_about_everything() -> None:
    assert window_of([]) == ALWAYS


@settings(max_examples=25)
@given(st.dates(date(2018, 1, 3), date(2026, 11, 1)), st.integers(0, 30))
def test_a_run_over_sessions_is_about_their_days_and_the_days_without_one_after_each(day: date, length: int) -> None:
    first = sessions.session_after(day)
    last = sessions.session_of(first + timedelta(length))
    window = window_of([first.isoformat(), last.isoformat()])
    assert window.start == sessions.to_utc(datetime.combine(first, datetime.min.time()))
    assert window.end == sessions.to_utc(datetime.combine(sessions.session_after(last), datetime.min.time()))


def test_what_no_partition_reaches_goes_with_the_first_or_the_last_of_all() -> None:
    keys = SESSIONS.get_partition_keys()
    assert window_of(keys) == ALWAYS
    assert window_of(keys[:1]).start is None
    assert window_of(keys[:1]).end == window_of(keys[1:2]).start
    assert window_of(keys[-1:]).end is None
