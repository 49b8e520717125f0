"""Which session was a full one, and since when nobody may have called."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from b3_pipeline.cutover.phases import finished_sessions, full_session, quiet_since

MONDAY, FRIDAY = date(2025, 10, 13), date(2025, 10, 10)


def local(day: int, hour: int, minute: int = 0) -> datetime:
    return (
        datetime(2025, 10, day, hour + 3, minute, tzinfo=UTC)
        if hour < 21
        else datetime(2025, 10, day + 1, hour - 21, minute, tzinfo=UTC)
    )


@pytest.mark.parametrize(
    ("now", "newest"),
    [
        (local(13, 20, 59), FRIDAY),
        (local(13, 21), MONDAY),
        (local(14, 8), MONDAY),
        (local(12, 12), FRIDAY),  # a Sunday
    ],
)
def test_a_session_is_over_when_everything_of_it_was_due(now: datetime, newest: date) -> None:
    assert next(finished_sessions(now)) == newest


@pytest.mark.parametrize(
    ("since", "now", "session"),
    [
        (local(13, 9), local(14, 8), MONDAY),
        (local(13, 9, 1), local(14, 8), None),  # it had begun
        (local(10, 8), local(14, 8), MONDAY),
        (local(11, 8), local(13, 12), None),
        (local(10, 8), local(13, 12), FRIDAY),
        (None, local(14, 8), None),
    ],
)
def test_a_full_session_began_and_ended_within_the_phase(
    since: datetime | None, now: datetime, session: date | None
) -> None:
    assert full_session(since, now) == session


def test_three_sessions_without_a_call_are_quiet() -> None:
    assert quiet_since(local(14, 8)) == date(2025, 10, 9)
