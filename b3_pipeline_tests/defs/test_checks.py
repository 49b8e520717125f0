"""What runs may say of checks: a look at some sessions clears no fault that was found by a look at more."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from b3_pipeline.defs.checks import RED_OVER, Span, last_results, red_over
from b3_pipeline.quality.checks import checks_of
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline_tests.defs.test_backfill import TICKS, legacy, run, sessions_of_sample  # noqa: F401 (a fixture)

PARITY = dg.AssetCheckKey(dg.AssetKey(TICKS.name), "parity_legacy_csv")


def found_red(instance: dg.DagsterInstance, looked_at: str) -> None:
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=PARITY.asset_key, check_name=PARITY.name, passed=False, metadata={"looked_at": looked_at}
        )
    )


def result(instance: dg.DagsterInstance) -> dg.AssetCheckEvaluation:
    return last_results(instance, [PARITY])[PARITY][1]


def test_a_run_over_some_sessions_clears_only_what_was_found_over_no_more(legacy: Path, db: QuestDB) -> None:  # noqa: F811
    days = sessions_of_sample(legacy)
    with dg.instance_for_test() as instance:
        found_red(instance, "everything")
        done = run(db, instance, "migrate", first=days[2], last=days[4])
        assert done.success
        assert not [e for e in done.all_events if e.is_step_skipped], "what waits for the check goes on"
        assert not result(instance).passed
        assert run(db, instance, first=days[2], last=days[4]).success
        assert not result(instance).passed, "a run that was silent has cleared nothing"
        found_red(instance, f"sessions {days[3]} to {days[3]}")
        assert run(db, instance, first=days[2], last=days[4]).success
        assert result(instance).passed


def test_a_run_over_everything_clears_all(legacy: Path, db: QuestDB) -> None:  # noqa: F811
    with dg.instance_for_test() as instance:
        found_red(instance, "everything")
        assert run(db, instance, "migrate").success
        assert result(instance).passed


def test_what_is_red_again_over_less_stays_red_over_all_of_it(legacy: Path, db: QuestDB) -> None:  # noqa: F811
    days = sessions_of_sample(legacy)
    checks = [check for check in checks_of(TICKS) if check.name == PARITY.name]
    with dg.instance_for_test() as instance:
        assert run(db, instance, "migrate").success
        found_red(instance, "everything")
        db.execute("update b3_dxy_ticks set value = value + 0.01 where bucket = 'dxy_08h50'")
        db.wait_applied(TICKS.name)
        assert not run(db, instance, "validate", first=days[2], last=days[2]).success
        assert result(instance).metadata[RED_OVER].value == "everything"
        assert red_over(instance, checks) == {PARITY.name: Span()}


@pytest.mark.parametrize("span", [Span(), Span("2025-10-10"), Span("2025-10-10", "2025-10-13"), Span("", "2025-10-13")])
def test_what_was_looked_at_is_read_back_from_its_words(span: Span) -> None:
    assert Span.of_text(str(span)) == span


def test_a_look_covers_what_lies_within_it() -> None:
    week = Span("2025-10-06", "2025-10-10")
    assert Span().covers(week)
    assert Span("2025-10-06").covers(week)
    assert not Span("2025-10-07").covers(week)
    assert not week.covers(Span("2025-10-07"))
