"""Gaps that are known: kept with who, when and why; what was tried for the others; and one sweep at a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from b3_pipeline.postgres.known_gaps import GapKey, KnownGaps, KnownGapsError, open_known_gaps

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
KEY = GapKey("yahoo_dxy", "b3_dxy_ticks", date(2025, 10, 13), "dxy_08h50")
OTHER = KEY._replace(session=date(2025, 10, 10), part="")


@pytest.fixture
def dsn(postgres: str) -> str:
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("drop table if exists b3.known_gaps, b3.gap_attempts")
    return postgres


@pytest.fixture
def known(dsn: str) -> Iterator[KnownGaps]:
    with open_known_gaps(dsn) as opened:
        yield opened


def test_a_mark_says_who_when_and_why(known: KnownGaps) -> None:
    assert known.mark(KEY, "holiday in New York", "ana", NOW)
    [mark] = known.marks()
    assert (mark.key, mark.why, mark.who, mark.marked_at) == (KEY, "holiday in New York", "ana", NOW)
    assert mark.tried == []


def test_marks_come_by_session_and_as_keys(known: KnownGaps) -> None:
    for key in (KEY, OTHER):
        known.mark(key, "-", "ana", NOW)
    assert [mark.key for mark in known.marks()] == [OTHER, KEY]
    assert known.marked() == {KEY, OTHER}


def test_a_gap_is_marked_once_and_the_first_reason_stays(known: KnownGaps) -> None:
    assert known.mark(KEY, "first", "ana", NOW)
    assert not known.mark(KEY, "second", "rui", NOW)
    assert [mark.why for mark in known.marks()] == ["first"]


def test_a_mark_that_is_taken_back_leaves_its_trace_and_may_come_again(known: KnownGaps, dsn: str) -> None:
    known.mark(KEY, "first", "ana", NOW)
    assert known.unmark(KEY, "it came", "sweep", NOW + timedelta(days=1))
    assert not known.unmark(KEY, "again", "sweep", NOW)
    assert known.marked() == frozenset()
    assert known.mark(KEY, "lost again", "ana", NOW + timedelta(days=2))
    with psycopg.connect(dsn) as db:
        rows = db.execute("select why, unmarked_by, unmarked_why from b3.known_gaps order by id").fetchall()
    assert rows == [("first", "sweep", "it came"), ("lost again", None, None)]


def test_attempts_of_one_outcome_are_counted_and_another_outcome_begins_anew(known: KnownGaps) -> None:
    for days, outcome in enumerate(("failed", "without", "without")):
        known.note([KEY, OTHER], "source", outcome, f"attempt {days}", NOW + timedelta(days=days))
    [tried] = known.tried(KEY)
    assert (tried.way, tried.outcome, tried.detail, tried.times) == ("source", "without", "attempt 2", 2)
    assert (tried.first_at, tried.last_at) == (NOW + timedelta(days=1), NOW + timedelta(days=2))
    assert known.noted() == {KEY, OTHER}


def test_a_mark_keeps_what_was_tried(known: KnownGaps) -> None:
    known.note([KEY], "archive", "nothing", "nothing of it", NOW)
    known.note([KEY], "source", "failed", "503", NOW + timedelta(minutes=1))
    known.mark(KEY, "gone", "sweep", NOW)
    [mark] = known.marks()
    assert [(each["way"], each["outcome"], each["times"]) for each in mark.tried] == [
        ("archive", "nothing", 1),
        ("source", "failed", 1),
    ]
    assert known.tried(KEY) == []


def test_what_was_tried_for_a_closed_gap_is_forgotten(known: KnownGaps) -> None:
    known.note([KEY, OTHER], "source", "failed", "503", NOW)
    known.forget(KEY)
    assert known.noted() == {OTHER}


def test_only_one_sweep_is_at_it_at_a_time(known: KnownGaps, dsn: str) -> None:
    with open_known_gaps(dsn) as other:
        with known.alone(), pytest.raises(KnownGapsError, match="Another sweep"), other.alone():
            pass
        with other.alone():
            pass


def test_a_postgresql_that_is_away_is_a_sentence_without_its_password() -> None:
    with (
        pytest.raises(KnownGapsError, match="does not answer") as failed,
        open_known_gaps("postgresql://u:hunter2@127.0.0.1:1/x"),
    ):
        pass
    assert "hunter2" not in str(failed.value)
