"""Daily work is asked for on sessions, until it succeeded, and one run at a time."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import dagster as dg
import pytest

from b3_pipeline.definitions import defs
from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.schedules import SESSION_TAG, wanted
from b3_pipeline.sessions import ZONE

SESSION, HOLIDAY, SUNDAY = date(2025, 10, 14), date(2025, 12, 24), date(2025, 10, 12)


@pytest.mark.parametrize("day", [HOLIDAY, SUNDAY])
def test_nothing_is_asked_for_on_a_day_without_a_session(day: date) -> None:
    assert "no session" in str(wanted(day, []))


def test_a_run_that_failed_is_asked_for_again_and_one_that_succeeded_is_not() -> None:
    assert wanted(SESSION, []) is None
    assert wanted(SESSION, [dg.DagsterRunStatus.FAILURE]) is None
    assert "Done" in str(wanted(SESSION, [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS]))
    assert "under way" in str(wanted(SESSION, [dg.DagsterRunStatus.STARTED]))


@pytest.mark.parametrize("name", ["validate_daily", "gaps_daily", "gaps_morning"])
def test_a_schedule_asks_for_the_session_of_its_time(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B3_HOME", str(tmp_path))
    schedule = defs.get_repository_def().get_schedule_def(name)
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        evening = datetime(2025, 10, 14, 22, 15, tzinfo=ZONE)
        context = dg.build_schedule_context(
            instance=instance, scheduled_execution_time=evening, resources={"store": Store()}
        )
        data = schedule.evaluate_tick(context)
    [request] = data.run_requests or []
    assert request.tags[SESSION_TAG] == "2025-10-14"


def test_what_succeeded_in_the_morning_is_asked_for_again_in_the_evening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B3_HOME", str(tmp_path))
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:

        def asked(name: str, hour: int) -> list[dg.RunRequest]:
            at = datetime(2025, 10, 14, hour, 15, tzinfo=ZONE)
            context = dg.build_schedule_context(
                instance=instance, scheduled_execution_time=at, resources={"store": Store()}
            )
            return list(defs.get_repository_def().get_schedule_def(name).evaluate_tick(context).run_requests or [])

        @dg.job(name="gaps")
        def done() -> None:
            pass

        [morning] = asked("gaps_morning", 8)
        assert done.execute_in_process(instance=instance, tags=dict(morning.tags)).success
        assert asked("gaps_morning", 9) == []
        assert len(asked("gaps_daily", 20)) == 1
