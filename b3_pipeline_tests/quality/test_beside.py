"""The check `composed`: from phase shadow on only the latest legacy capture's comparison decides."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from b3_pipeline.capture_differences import Comparison
from b3_pipeline.quality.finding import Finding
from b3_pipeline_tests.quality.conftest import NOW, Desk

FRIDAY, MONDAY = date(2025, 10, 10), date(2025, 10, 13)
LATER = NOW + timedelta(minutes=20)


def compared(*sessions: date) -> Any:
    at = datetime(2025, 10, 13, 13, tzinfo=UTC)
    return lambda: [Comparison(at, session, "a", "b", 40, ()) for session in sessions]


def look(desk: Desk, *sessions: date, phase: str = "shadow", now: datetime = LATER) -> Finding:
    return desk.look("b3_captures", "composed", phase=phase, compared=compared(*sessions), now=now)


def test_the_comparison_of_the_latest_session_decides(captured: Desk) -> None:
    assert look(captured, FRIDAY, MONDAY).passed


def test_old_evidence_or_none_decides_nothing_from_phase_shadow_on(captured: Desk) -> None:
    for sessions in ([], [FRIDAY]):
        found = look(captured, *sessions)
        assert (found.passed, found.undecided) == (False, True)
        assert "2025-10-13" in found.advice
        assert look(captured, *sessions, phase="legacy").passed


def test_a_capture_that_has_just_come_has_time_to_be_compared(captured: Desk) -> None:
    assert not look(captured, FRIDAY, now=LATER).passed
    captured.sql(
        "update b3_captures set ingested_at = '2025-10-14T15:15:00.000000Z' where ts > '2025-10-12'", "b3_captures"
    )
    assert look(captured, FRIDAY, now=LATER).passed


def test_without_any_legacy_capture_nothing_is_decided(captured: Desk) -> None:
    captured.sql("truncate table b3_captures", "b3_captures")
    assert look(captured, MONDAY).undecided
