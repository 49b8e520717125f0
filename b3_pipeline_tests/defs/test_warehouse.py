"""The warehouse as Dagster runs it: it loads what is exported, and its checks find what somebody has changed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.warehouse import (
    all_warehouse_checks,
    key_of,
    warehouse_assets,
    warehouse_jobs,
    warehouse_today,
)
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.warehouse.exports import manifests
from b3_pipeline_tests.warehouse.filled import SIGNALS, asked, empty, exported, put, signal

MONDAY = datetime(2025, 10, 13, 12)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as one:
        yield one


@pytest.fixture(autouse=True)
def without_warehouse(postgres: str) -> None:
    empty(postgres)


def run(instance: dg.DagsterInstance, job: str = "warehouse") -> dg.ExecuteInProcessResult:
    definitions = dg.Definitions(
        assets=warehouse_assets(),
        asset_checks=all_warehouse_checks(),
        jobs=warehouse_jobs(),
        resources={"store": Store()},
        executor=dg.in_process_executor,
    )
    return definitions.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False)


def red(done: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The checks that did not pass, with the partitions that they name."""

    def named(check: dg.AssetCheckEvaluation) -> list[Any]:
        offending = check.metadata["first_offending"]
        assert isinstance(offending, dg.TableMetadataValue)
        return [record.data["partition"] for record in offending.records]

    evaluations = done.get_asset_check_evaluations()
    return {f"{c.asset_key.path[-1]} {c.check_name}": named(c) for c in evaluations if not c.passed}


def test_the_job_loads_what_is_exported_and_says_what_it_did(
    home: Path, db: QuestDB, instance: dg.DagsterInstance, postgres: str
) -> None:
    put(db, SIGNALS, *(signal(MONDAY - timedelta(days=back)) for back in range(3)))
    exported(db, home / "exports", SIGNALS)
    done = run(instance)
    assert done.success
    assert len(done.get_asset_check_evaluations()) == 16
    assert red(done) == {}
    [result] = done.asset_materializations_for_node("warehouse__tp_capital_signals")
    found: dict[str, Any] = {name: value.value for name, value in result.metadata.items() if name != "loads"}
    assert found.pop("seconds") > 0
    assert found == {
        "dagster/row_count": 3,
        "partitions": 3,
        "rows_loaded": 3,
        "loaded": 3,
        "unchanged": 0,
        "damaged": 0,
    }
    assert asked(postgres, "select count(*) from warehouse.signals") == [(3,)]
    [again] = run(instance, "warehouse_today").asset_materializations_for_node("warehouse__tp_capital_signals")
    assert (again.metadata["loaded"].value, again.metadata["unchanged"].value) == (0, 3)


@pytest.mark.parametrize(
    ("change", "reds"),
    [
        ("delete from warehouse.tp_capital_signals where ts::date = '2025-10-12'", {"rows", "checksums"}),
        ("update warehouse.tp_capital_signals set stop = 1 where ts::date = '2025-10-12'", {"checksums"}),
    ],
)
def test_the_checks_name_a_partition_that_somebody_has_changed(
    home: Path, db: QuestDB, instance: dg.DagsterInstance, postgres: str, change: Any, reds: set[str]
) -> None:
    put(db, SIGNALS, *(signal(MONDAY - timedelta(days=back)) for back in range(3)))
    exported(db, home / "exports", SIGNALS)
    assert red(run(instance)) == {}
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("set timezone to 'UTC'")
        connection.execute(change)
    assert red(run(instance)) == {f"tp_capital_signals {name}": ["2025-10-12"] for name in reds}
    asked(postgres, "delete from warehouse.loads where partition = '2025-10-12' returning 1")  # as the check advises
    assert red(run(instance)) == {}


def test_rows_of_no_partition_and_exports_that_are_not_loaded_are_found(
    home: Path, db: QuestDB, instance: dg.DagsterInstance, postgres: str
) -> None:
    put(db, SIGNALS, *(signal(MONDAY - timedelta(days=back)) for back in range(3)))
    exports = exported(db, home / "exports", SIGNALS)
    manifest = manifests(exports, SIGNALS)["2025-10-12"]
    file = home / "exports" / manifest.files[0].name
    kept = file.read_bytes()
    file.write_bytes(b"PAR1")
    done = run(instance)
    assert not done.success
    [failure] = [e.step_failure_data for e in done.all_events if e.is_step_failure]
    assert failure.user_failure_data is not None
    assert "2025-10-12" in (failure.user_failure_data.description or "")
    file.write_bytes(kept)
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(
            "insert into warehouse.tp_capital_signals (ts, channel, signal_type, asset) values ('2024-01-01', '', '', '')"
        )
    assert red(run(instance)) == {"tp_capital_signals rows": ["-"]}


@pytest.mark.parametrize(
    ("moment", "asked_for"),
    [
        (datetime(2025, 10, 13, 15, tzinfo=UTC), True),
        (datetime(2025, 10, 12, 15, tzinfo=UTC), False),
        (datetime(2025, 12, 25, 15, tzinfo=UTC), False),
    ],
)
def test_today_is_loaded_on_sessions_only(home: Path, moment: datetime, asked_for: bool) -> None:
    with dg.instance_for_test() as instance:
        context = dg.build_schedule_context(instance=instance, scheduled_execution_time=moment)
        assert isinstance(warehouse_today(context, store=Store()), dg.RunRequest) is asked_for


@pytest.mark.usefixtures("instance")  # else the graph asks the instance of whichever test was before
def test_every_table_of_the_warehouse_comes_from_its_export(home: Path) -> None:
    graph = dg.Definitions(assets=warehouse_assets(), resources={"store": Store()}).resolve_asset_graph()
    assert {p.to_user_string() for p in graph.get(key_of(SIGNALS)).parent_keys} == {"exports/tp_capital_signals"}
