"""Callers of the legacy routes, as they are kept: added up, by session."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from b3_pipeline.postgres.callers import Caller, CallersError, add, recent

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
TODAY = date(2025, 10, 14)
CALLER = Caller(TODAY, "10.0.0.1", "curl/8", "/gamma", 3, NOW, NOW + timedelta(minutes=1))


@pytest.fixture
def dsn(postgres: str) -> str:
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("drop table if exists b3.legacy_callers")
    return postgres


def test_calls_add_up_and_keep_the_first_and_the_last(dsn: str) -> None:
    add(dsn, [CALLER])
    earlier = replace(CALLER, count=4, first_at=NOW - timedelta(hours=1), last_at=NOW)
    later = replace(CALLER, count=1, first_at=NOW, last_at=NOW + timedelta(hours=1))
    add(dsn, [earlier, later])
    assert recent(dsn, TODAY) == [
        replace(CALLER, count=8, first_at=NOW - timedelta(hours=1), last_at=NOW + timedelta(hours=1))
    ]


def test_the_busiest_of_the_newest_session_come_first_and_older_sessions_when_asked_for(dsn: str) -> None:
    before = replace(CALLER, session=date(2025, 10, 13), count=99)
    busy = replace(CALLER, route="/ultimo-dado", count=50)
    add(dsn, [CALLER, before, busy])
    add(dsn, [])
    assert recent(dsn, TODAY) == [busy, CALLER]
    assert recent(dsn, date(2025, 10, 13)) == [busy, CALLER, before]


def test_the_first_call_of_a_session_ends_those_of_more_than_400_days_before(dsn: str) -> None:
    days = (401, 400, 1)
    old, kept, before = (replace(CALLER, session=TODAY - timedelta(days=day)) for day in days)
    add(dsn, [before])
    add(dsn, [old, kept])  # who is late with it: nothing new begins
    assert recent(dsn, old.session) == [before, kept, old]
    add(dsn, [CALLER])
    assert recent(dsn, old.session) == [CALLER, before, kept]
    assert recent(dsn, old.session, 2) == [CALLER, before]


def test_a_postgresql_that_is_away_is_a_sentence_without_its_password() -> None:
    for ask in (lambda dsn: add(dsn, [CALLER]), lambda dsn: recent(dsn, TODAY)):
        with pytest.raises(CallersError, match="does not answer") as failed:
            ask("postgresql://u:hunter2@127.0.0.1:1/x")
        assert "hunter2" not in str(failed.value)
