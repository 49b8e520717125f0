"""The job `parity`: it keeps the report, well or not, and fails when what is stored is not what was given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from b3_pipeline.defs.parity import parity
from b3_pipeline.defs.resources import Store
from b3_pipeline.quality import parity_report
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline_tests.cli.test_quality import desk  # noqa: F401 (a fixture)
from b3_pipeline_tests.quality.conftest import Desk


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def run(desk: Desk, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:  # noqa: F811
    return parity.execute_in_process(
        run_config={"ops": {"prove_parity": {"config": {"legacy_dir": str(desk.folder)}}}},
        instance=instance,
        resources={"store": Store()},
        raise_on_error=False,
    )


def proved(desk: Desk, instance: dg.DagsterInstance) -> tuple[bool, dict[str, Any]]:  # noqa: F811
    """Whether the job succeeded, and the report that is kept then."""
    done = run(desk, instance)
    report = parity_report.latest(desk.home)
    assert report is not None
    return done.success, report


def test_the_report_of_a_run_is_kept_with_the_way_down_to_the_key(
    desk: Desk,  # noqa: F811
    db: QuestDB,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("B3_LEGACY_DIR", str(desk.folder))
    succeeded, report = proved(desk, instance)
    assert (succeeded, report["ok"], report["at"]) == (True, True, "2025-10-14T15:00:00+00:00")
    desk.sql("update b3_adjustments set price_settlement = 99999 where ts in '2025-01-08'", "b3_adjustments")
    succeeded, report = proved(desk, instance)
    assert (succeeded, report["ok"]) == (False, False)
    [check] = [c for c in report["checks"] if c["table"] == "b3_adjustments" and c["check"] == "parity_legacy_csv"]
    [partition] = check["partitions"]
    assert (partition["partition"], partition["missing"], partition["different"]) == ("2025-01-08", 0, 3)
    row = partition["rows"][0]
    assert (row["problem"], row["column"], row["stored_value"]) == ("different", "price_settlement", 99999.0)
    assert row["source_value"] != 99999
    assert {row["instrument"] for row in partition["rows"]} == {"DI1", "DDI", "DOL"}


def test_a_report_of_another_folder_than_the_homes_is_not_kept(desk: Desk, instance: dg.DagsterInstance) -> None:  # noqa: F811
    done = run(desk, instance)
    assert done.success
    assert parity_report.latest(desk.home) is None
