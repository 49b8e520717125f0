"""Mismatches of the legacy contract: kept with both bodies, counted instead of repeated, bounded, and seen by somebody."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from b3_pipeline.postgres import mismatches
from b3_pipeline.postgres.mismatches import Found, MismatchesError, NotSeen, latest, mark_seen, open_count, record

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
FOUND = Found(NOW, "gamma", b'{"a": 1}', b'{"a": 2}', [{"pointer": "/a", "legacy": 1, "ours": 2, "what": "value"}])


@pytest.fixture
def dsn(postgres: str) -> str:
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("drop table if exists b3.payload_mismatches")
    return postgres


def test_a_mismatch_is_kept_with_both_bodies_and_where_they_differ(dsn: str) -> None:
    assert record(dsn, FOUND)
    [kept] = latest(dsn)
    assert (kept.at, kept.last_at, kept.count, kept.endpoint) == (NOW, NOW, 1, "gamma")
    assert (kept.legacy, kept.ours, kept.differences) == (FOUND.legacy, FOUND.ours, list(FOUND.differences))
    assert (kept.open, open_count(dsn)) == (True, 1)


def test_the_same_mismatch_is_counted_and_others_stand_beside_it(dsn: str) -> None:
    record(dsn, FOUND)
    assert not record(dsn, replace(FOUND, at=NOW + timedelta(hours=1)))
    assert record(dsn, replace(FOUND, ours=None, at=NOW + timedelta(minutes=1)))
    assert record(dsn, replace(FOUND, endpoint="status", kind="shape", at=NOW + timedelta(minutes=2)))
    assert not record(dsn, replace(FOUND, endpoint="status", kind="shape", legacy=b"other", at=NOW))
    assert [(m.endpoint, m.ours is None, m.count) for m in latest(dsn)] == [
        ("gamma", False, 2),
        ("status", False, 2),
        ("gamma", True, 1),
    ]
    newest = latest(dsn, 1)[0]
    assert (newest.at, newest.last_at) == (NOW, NOW + timedelta(hours=1))


def test_what_a_rule_explains_is_not_open(dsn: str) -> None:
    record(dsn, replace(FOUND, ignored_by=("key_order",)))
    assert (latest(dsn)[0].ignored_by, open_count(dsn)) == (["key_order"], 0)
    record(dsn, FOUND)  # the rule was taken back
    assert open_count(dsn) == 1


def test_who_has_seen_it_says_why_it_may_stand_and_the_first_one_stays(dsn: str) -> None:
    record(dsn, FOUND)
    number = latest(dsn)[0].id
    mark_seen(dsn, number, "ana", "typed by hand that day", NOW)
    mark_seen(dsn, number, "rui", "again", NOW + timedelta(days=1))
    [kept] = latest(dsn)
    assert (kept.seen_at, kept.seen_by, kept.seen_why) == (NOW, "ana", "typed by hand that day")
    assert (kept.open, open_count(dsn)) == (False, 0)


def test_open_mismatches_come_first_however_many_others_were_met_since(dsn: str) -> None:
    record(dsn, FOUND)
    for number in range(4):
        later = replace(FOUND, legacy=b"%d" % number, at=NOW + timedelta(minutes=number + 1))
        record(dsn, replace(later, ignored_by=("key_order",)) if number < 3 else later)
    assert [m.legacy for m in mismatches.foremost(dsn, 3)] == [b"3", FOUND.legacy, b"2"]
    assert mismatches.counted(dsn) == (2, 5)


@pytest.mark.parametrize(
    ("number", "who", "why", "said"),
    [
        (10**6, "ana", "x", "no mismatch 1000000"),
        (0, "ana", "x", "no mismatch 0"),
        (2**70, "ana", "x", "no mismatch"),
        (1, " ", "x", "Say who"),
        (1, "ana", "", "Say who"),
        (1, "ana", "x\ny", "one line"),
        (1, "a" * 501, "x", "500"),
    ],
)
def test_what_cannot_be_marked_as_seen_is_a_sentence(dsn: str, number: int, who: str, why: str, said: str) -> None:
    with pytest.raises(NotSeen, match=said):
        mark_seen(dsn, number, who, why)


def test_bodies_differences_and_mismatches_are_bounded(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mismatches, "KEPT", 3)
    many = [{"pointer": f"/{n}", "legacy": n, "ours": None, "what": "missing"} for n in range(80)]
    record(dsn, replace(FOUND, legacy=b"x" * (1 << 20), differences=many))
    [kept] = latest(dsn)
    assert (len(kept.legacy), len(kept.differences)) == (mismatches.BODY_BYTES, mismatches.DIFFERENCES)
    mark_seen(dsn, kept.id, "ana", "large", NOW)
    for number in range(1, 6):
        record(dsn, replace(FOUND, legacy=b"%d" % number, at=NOW + timedelta(minutes=number)))
    assert [m.legacy for m in latest(dsn)] == [b"5", b"4", b"3"]


def test_texts_that_postgresql_does_not_take_are_kept_as_it_does(dsn: str) -> None:
    record(dsn, replace(FOUND, legacy=b"\0\xff", differences=[{"pointer": "/\0", "legacy": "\ud800", "ours": ["\0"]}]))
    [kept] = latest(dsn)
    assert kept.legacy == b"\0\xff"
    assert kept.differences == [{"pointer": "/\ufffd", "legacy": "?", "ours": ["\ufffd"]}]


def test_a_postgresql_that_is_away_is_a_sentence_without_its_password() -> None:
    with pytest.raises(MismatchesError, match="does not answer") as failed:
        latest("postgresql://u:hunter2@127.0.0.1:1/x")
    assert "hunter2" not in str(failed.value)
