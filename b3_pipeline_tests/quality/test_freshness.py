"""Freshness: the age of the data against the calendar, not the state of a connection."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest

from b3_pipeline.postgres.known_gaps import GapKey
from b3_pipeline.quality.freshness import Freshness, judged
from b3_pipeline.sessions import session_after, session_of, to_local, to_utc, window
from b3_pipeline.sources.catalog import SOURCES
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.quality.conftest import Desk

REPORT = SOURCES["settlement_report"]
CHART = SOURCES["dxy_chart"]


def local(text: str) -> datetime:
    return to_utc(datetime.fromisoformat(text))


def looked_at(table: str, newest: str | None, now: str, *sources: str) -> Freshness:
    live = [SOURCES[name] for name in sources]
    feeds = {live[0].kind.feed: (1, local(newest))} if newest else {}
    return judged(feeds, TABLES[table], live, local(now).replace(tzinfo=UTC))


@pytest.mark.parametrize(
    ("newest", "now", "fresh"),
    [
        ("2025-10-13T19:30", "2025-10-14T20:29", True),  # today's is not due yet
        ("2025-10-13T19:30", "2025-10-14T20:31", False),
        ("2025-10-14T19:30", "2025-10-14T20:31", True),
        ("2025-10-10T19:30", "2025-10-12T12:00", True),  # Sunday
        ("2025-10-09T19:30", "2025-10-12T12:00", False),  # Friday's never came
        ("2025-12-23T19:30", "2025-12-25T23:00", True),  # the 24th is no session at B3
        (None, "2025-10-12T12:00", False),
    ],
)
def test_a_settlement_is_fresh_until_the_next_sessions_is_due(newest: str | None, now: str, fresh: bool) -> None:
    assert looked_at("b3_adjustments", newest, now, "settlement_report").fresh is fresh


@pytest.mark.parametrize(
    ("newest", "now", "fresh"),
    [
        ("2025-10-13T18:30", "2025-10-14T08:59", True),  # before the first value of the day is due
        ("2025-10-13T18:30", "2025-10-14T09:10", False),
        ("2025-10-14T09:00", "2025-10-14T09:10", True),
        ("2025-10-14T09:00", "2025-10-14T09:16", False),  # connected, and silent
        ("2025-10-14T18:30", "2025-10-14T23:00", True),
        ("2025-10-14T17:00", "2025-10-14T23:00", False),
        ("2025-10-10T18:30", "2025-10-13T07:00", True),  # Monday morning
    ],
)
def test_a_chart_may_be_a_quarter_of_an_hour_old_while_it_trades(newest: str, now: str, fresh: bool) -> None:
    assert looked_at("b3_dxy_ticks", newest, now, "dxy_chart").fresh is fresh


def test_a_table_that_nobody_collects_is_neither_fresh_nor_stale() -> None:
    found = looked_at("b3_adjustments", None, "2025-10-14T12:00", "dxy_chart")
    assert (found.fresh, found.due, found.age_s) == (None, None, None)


def test_a_table_is_as_fresh_as_its_most_silent_feed() -> None:
    live = [REPORT, SOURCES["ajustes_b3"]]
    feeds = {"b3_sprd": (5, local("2025-10-14T19:30")), "legacy_csv": (5, local("2025-10-10T09:00"))}
    found = judged(feeds, TABLES["b3_adjustments"], live, local("2025-10-14T22:00").replace(tzinfo=UTC))
    assert not found.fresh
    assert [feed.feed for feed in found.feeds if not feed.fresh] == ["legacy_csv"]
    assert found.rows == 10


def test_the_age_is_of_the_newest_row_and_due_is_when_more_must_be_there() -> None:
    found = looked_at("b3_adjustments", "2025-10-13T19:30", "2025-10-14T12:00", "settlement_report")
    assert found.age_s == timedelta(hours=16, minutes=30).total_seconds()
    assert found.due == local("2025-10-14T20:30")


def test_what_is_late_says_since_when() -> None:
    found = looked_at("b3_adjustments", "2025-10-10T19:30", "2025-10-14T12:00", "settlement_report")
    assert found.due == local("2025-10-13T00:00")


def test_of_a_session_that_is_excused_nothing_is_expected() -> None:
    live, now = [REPORT], local("2025-10-14T22:00").replace(tzinfo=UTC)
    feeds = {"b3_sprd": (5, local("2025-10-09T19:30"))}
    missing = {date(2025, 10, 10), date(2025, 10, 13), date(2025, 10, 14)}
    table = TABLES["b3_adjustments"]
    assert judged(feeds, table, live, now, lambda _source, session: session in missing).fresh
    assert not judged(feeds, table, live, now, lambda _source, session: session in missing - {date(2025, 10, 13)}).fresh


def test_a_chart_on_an_excused_day_is_as_fresh_as_its_last_session_left_it() -> None:
    live, now = [CHART], local("2025-10-14T12:00").replace(tzinfo=UTC)
    for newest, fresh in (("2025-10-13T18:30", True), ("2025-10-13T17:00", False)):
        feeds = {CHART.kind.feed: (5, local(newest))}
        found = judged(feeds, TABLES["b3_dxy_ticks"], live, now, lambda _source, session: session == date(2025, 10, 14))
        assert found.fresh is fresh


def test_sessions_that_are_declared_or_marked_as_a_whole_are_not_expected(settled: Desk) -> None:
    files = SOURCES["ajustes_b3"]
    newest = session_of(to_local(settled.db.scalar("select max(ts) from b3_adjustments")).date())
    after = session_after(newest)
    now = to_utc(datetime.combine(after, time(22))).replace(tzinfo=UTC)

    def passes(**more: Any) -> bool:
        return settled.look("b3_adjustments", "freshness", now=now, live=(files,), **more).passed

    assert not passes()
    assert passes(known_gaps={files.kind.feed: [window(after, after)]})
    assert passes(marked_gaps={GapKey(files.kind.feed, "b3_adjustments", after)})
    assert not passes(marked_gaps={GapKey(files.kind.feed, "b3_adjustments", after, "a part")})


def test_a_row_of_the_future_makes_no_table_fresh_and_is_named(settled: Desk) -> None:
    files, now = SOURCES["ajustes_b3"], datetime(2025, 12, 1, 15, tzinfo=UTC)
    settled.sql(
        "insert into b3_adjustments (ts, instrument, contract_month, price_settlement, feed, load_id) "
        "values ('2031-01-08T12:00:00.000000Z', 'DOL', 'X25', 5500, 'legacy_csv', 1)",
        "b3_adjustments",
    )
    assert not settled.look("b3_adjustments", "freshness", now=now, live=(files,)).passed
    [row] = [r for r in settled.look("b3_adjustments", "soft_bounds", now=now).offending if "future" in r["rule"]]
    assert row["partition"] == "2031-01-08"
