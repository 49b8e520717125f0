"""Rows by session: of their local day, and the days without a session with the one before."""

from __future__ import annotations

import itertools
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline import sessions
from b3_pipeline.loading.census import by_session, census
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.tables import TABLES

TICKS = TABLES["b3_dxy_ticks"]


def store(db: QuestDB, *moments: datetime, load_id: int = 1) -> None:
    rows = [
        {"ts": ts, "bucket": f"b{n}", "value": 0.1, "ingested_at": ts, "feed": "legacy_csv", "load_id": load_id}
        for n, ts in enumerate(moments)
    ]
    db.send(TICKS.name, pa.Table.from_pylist(rows, schema=TICKS.arrow_schema()))
    db.wait_applied(TICKS.name)


def at(local: str) -> datetime:
    return sessions.to_utc(datetime.fromisoformat(local))


def test_rows_are_counted_by_the_session_of_their_local_day(db: QuestDB) -> None:
    store(db, at("2025-11-19T08:50"), at("2025-11-19T23:30"))  # the second is the 20th in UTC
    store(db, at("2025-11-20T09:00"), load_id=2)  # a holiday
    store(db, at("2025-11-21T09:00"), at("2025-11-23T09:00"), load_id=3)  # a session, and the Sunday after it
    counted = by_session(census(db, TICKS))
    assert {day: [(c.load_id, c.rows) for c in counts] for day, counts in counted.items()} == {
        date(2025, 11, 19): [(1, 2), (2, 1)],
        date(2025, 11, 21): [(3, 1), (3, 1)],
    }


def test_a_window_limits_what_is_counted(db: QuestDB) -> None:
    store(db, at("2025-11-19T08:50"), at("2025-11-20T09:00"), at("2025-11-21T09:00"))
    window = sessions.window(date(2025, 11, 19), date(2025, 11, 19))
    assert [(c.session, c.rows) for c in census(db, TICKS, window)] == [(date(2025, 11, 19), 1)] * 2


def test_daylight_saving_time_moves_no_row_to_another_session(db: QuestDB) -> None:
    store(db, at("2018-11-02T23:59"), at("2018-11-05T00:01"), at("2018-11-05T23:59"))  # the clocks moved on the 4th
    assert [(c.session, c.rows) for c in census(db, TICKS)] == [(date(2018, 11, 1), 1), (date(2018, 11, 5), 2)]


def test_an_empty_table_has_no_sessions(db: QuestDB) -> None:
    assert census(db, TICKS) == []


@given(st.lists(st.dates(date(2016, 1, 1), date(2026, 12, 31)), min_size=1, max_size=50))
def test_a_window_of_one_session_holds_exactly_the_days_of_that_session(days: list[date]) -> None:
    for day in days:
        session = sessions.session_of(day)
        window = sessions.window(session, session)
        moments = np.array([at(f"{day}T{hour}") for hour in ("01:00", "12:00", "23:59")], dtype="datetime64[us]")
        assert window.mask(moments).all()
        before, after = sessions.session_before(session), sessions.session_after(session)
        for other in (before, after):
            assert not sessions.window(other, other).mask(moments).any()
        start, end = window.bounds()
        assert end == sessions.window(after, after).start
        assert end - start >= timedelta(hours=23)


def test_the_calendar_of_partitions_has_no_gap_and_no_overlap_over_the_summer_time_of_2018() -> None:
    days, seen = [date(2018, 10, 1) + timedelta(n) for n in range(160)], []
    for day in filter(sessions.is_session, days):
        seen.append(sessions.window(day, day))
    assert all(a.end == b.start for a, b in itertools.pairwise(seen))


def test_no_window_is_all_of_time() -> None:
    assert ALWAYS.mask(np.array(["1900-01-01", "2200-01-01"], dtype="datetime64[us]")).all()
    start, end = ALWAYS.bounds()
    assert start < datetime(1800, 1, 1) < datetime(3000, 1, 1) < end
    assert Window(end=datetime(2025, 1, 1)).bounds() == (start, datetime(2025, 1, 1))
