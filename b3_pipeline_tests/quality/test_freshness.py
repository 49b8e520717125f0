"""Freshness: the age of the data against the calendar, not the state of a connection."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from b3_pipeline.quality.freshness import Freshness, judged
from b3_pipeline.sessions import to_utc
from b3_pipeline.sources.catalog import SOURCES
from b3_pipeline.tables import TABLES

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
