"""What `/paridade` is told: by PostgreSQL, and by what the processes of a home have counted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from b3_pipeline.api.page import parity
from b3_pipeline.api.page.parity import OUTCOMES, Parity, differed, of_service
from b3_pipeline.api.service import Service
from b3_pipeline.api.switch import Counts
from b3_pipeline.metrics import instruments
from b3_pipeline.postgres import callers, mismatches
from b3_pipeline.postgres.callers import Caller
from b3_pipeline.postgres.mismatches import Found
from b3_pipeline.settings import Settings
from b3_pipeline_tests.api import legacy_desk

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
TODAY = date(2025, 10, 14)
FOUND = Found(NOW, "gamma", b'{"a": 1}', b'{"a": 2}', [{"pointer": "/a", "legacy": 1, "ours": 2, "what": "value"}])
CALLER = Caller(TODAY, "10.0.0.1", "curl/8", "/gamma", 3, NOW, NOW)


@pytest.fixture
def dsn(postgres: str) -> str:
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("drop table if exists b3.payload_mismatches, b3.legacy_callers")
    return postgres


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Of a home in which this process counts."""
    made = Settings(home=tmp_path / "home", now=NOW)
    assert instruments.ready(made)
    yield made
    instruments.stop()


def asked(settings: Settings, dsn: str | None, phase: str = "shadow") -> Parity:
    nobody: Any = None  # the tables are not asked
    return asyncio.run(of_service(Service(settings, nobody, dsn, legacy_desk.phase(phase))))


def test_the_open_ones_are_shown_first_and_all_are_counted(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "SHOWN", 2)
    mismatches.record(dsn, FOUND)
    for number in range(3):
        later = replace(FOUND, legacy=b"%d" % number, at=NOW + timedelta(minutes=number + 1))
        mismatches.record(dsn, replace(later, ignored_by=("key_order",)))
    found = differed(dsn, TODAY)
    assert (found.open, found.total) == (1, 4)
    assert [(m.legacy, m.settled) for m in found.shown] == [
        ('{\n  "a": 1\n}', None),
        ("2", "explicada por key_order"),
    ]


def test_the_callers_are_those_of_the_last_five_sessions_and_bounded(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [date(2025, 10, day) for day in (14, 13, 10, 9, 8, 7)]
    callers.add(dsn, [replace(CALLER, session=session) for session in sessions])
    assert [c.session for c in differed(dsn, TODAY).callers] == sessions[:5]
    assert [c.session for c in differed(dsn, date(2025, 10, 18)).callers] == sessions[:2]  # Saturday: since Monday
    monkeypatch.setattr(parity, "CALLERS", 2)
    assert len(differed(dsn, TODAY).callers) == 2


def test_what_was_compared_is_counted_by_outcome_over_the_processes_of_a_home(settings: Settings, dsn: str) -> None:
    assert asked(settings, dsn).judged == 0
    assert set(OUTCOMES) == set(asdict(Counts())) - {"compared"}
    for number, outcome in enumerate(OUTCOMES, 1):
        instruments.payload_compared(outcome, number)
    found = asked(settings, dsn)
    assert found.counts == {outcome: number for number, outcome in enumerate(OUTCOMES, 1)}
    assert (found.judged, found.all_equal) == (1 + 2 + 3 + 4, False)
    assert found.outcomes[0] == ("iguais", 1)
    assert Parity({"equal": 2, "dropped": 1}, None, None).all_equal
    assert not Parity({}, None, None).all_equal


@pytest.mark.parametrize(
    ("phase", "legacy", "said"),
    [
        ("shadow", True, None),
        ("shadow", False, "não conhece um lado legado"),
        ("legacy", True, "a fase é legado"),
        ("active", True, "a fase é ativo"),
    ],
)
def test_it_is_said_why_nothing_is_compared(
    settings: Settings, dsn: str, phase: str, legacy: bool, said: str | None
) -> None:
    given = settings.model_copy(update={"legacy_url": "http://127.0.0.1:1" if legacy else None})
    found = asked(given, dsn, phase).quiet
    assert found is None if said is None else said in (found or "")


@pytest.mark.parametrize("dsn", [None, "postgresql://u:hunter2@127.0.0.1:1/x"])
def test_without_postgresql_nobody_can_tell_what_differed_and_the_counts_stay(
    settings: Settings, dsn: str | None
) -> None:
    instruments.payload_compared("equal")
    found = asked(settings, dsn)
    assert (found.differed, found.judged) == (None, 1)
