"""The job `gaps` fails when it is to be run again, and only then."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from b3_pipeline.defs import sweep
from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.sweep import why_again
from b3_pipeline.quality.gaps import Gap
from b3_pipeline.quality.sweeping import SweepReport

TODAY, FRIDAY = date(2025, 10, 13), date(2025, 10, 10)


def gap(until: date | None) -> Gap:
    return Gap("b3_vol_xlsx", "b3_vol_surface", FRIDAY, available_until=until)


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (SweepReport(TODAY), ""),
        (SweepReport(TODAY, open=[(gap(date(2025, 11, 10)), "")]), ""),
        (SweepReport(TODAY, open=[(gap(None), "")]), ""),
        (
            SweepReport(TODAY, open=[(gap(TODAY), "")]),
            "Missing, and given for the last time today: b3_vol_xlsx b3_vol_surface 2025-10-10.",
        ),
        (SweepReport(TODAY, failed=["vol_surface 2025-10-10, source: 503"]), "Something went wrong: vol_surface"),
    ],
)
def test_a_sweep_is_made_again_when_that_may_still_help(report: SweepReport, why: str) -> None:
    assert why_again(report).startswith(why)
    assert bool(why_again(report)) == bool(why)


def test_the_job_fails_then_and_has_done_its_work(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = [SweepReport(TODAY, failed=["vol_surface 2025-10-10, source: 503"]), SweepReport(TODAY)]
    monkeypatch.setattr(sweep, "sweep", lambda *_given, **_more: reports.pop(0))
    with dg.DagsterInstance.ephemeral() as instance:
        given = {"instance": instance, "resources": {"store": Store()}, "raise_on_error": False}
        ends = [sweep.gaps.execute_in_process(**given).success for _ in range(2)]
    assert ends == [False, True]
