"""Runs over some sessions and over everything: what is written, what is reported, how the parts become a whole."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from b3_pipeline.definitions import build_defs
from b3_pipeline.defs.partitions import SESSIONS
from b3_pipeline.defs.resources import Store
from b3_pipeline.loading.ledger import COUNTS
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.sample import make_sample
from b3_pipeline.settings import Settings
from b3_pipeline.tables import TABLES

TICKS = TABLES["b3_dxy_ticks"]


@pytest.fixture
def legacy(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sample of the ten sessions to 2025-10-13, which is the folder that runs load by default."""
    folder = tmp_path / "legacy"
    make_sample(folder, Settings().clock(), 10)
    monkeypatch.setenv("B3_LEGACY_DIR", str(folder))
    return folder


def sessions_of_sample(legacy: Path) -> list[str]:
    with (legacy / "dxy_coleta.csv").open() as file:
        return ["-".join(reversed(row["data"].split("-"))) for row in csv.DictReader(file)]


def run(
    db: QuestDB, instance: dg.DagsterInstance, job: str = f"backfill_{TICKS.name}", first: str = "", last: str = ""
) -> dg.ExecuteInProcessResult:
    """Runs a job in this process over the sessions from `first` to `last`, or over everything."""
    store = Store()
    store.db = db
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last} if first else {}
    definition = build_defs({"store": store}).resolve_job_def(job)
    return definition.execute_in_process(instance=instance, tags=tags, raise_on_error=False)


def materialized(instance: dg.DagsterInstance, table: str = TICKS.name) -> Mapping[str, int]:
    """Each partition that was reported, with its rows as the last report gives them."""
    found = instance.fetch_materializations(dg.AssetKey(table), limit=1_000).records
    return {
        str(r.partition_key): int(str(m.metadata["dagster/partition_row_count"].value))
        for r in reversed(found)
        if r.partition_key and (m := r.asset_materialization)
    }


def stored_days(db: QuestDB) -> Sequence[str]:
    rows = db.query("select distinct timestamp_floor('d', ts) d from b3_dxy_ticks order by d")
    return [row[0].date().isoformat() for row in rows]


def ledger(db: QuestDB) -> list[tuple]:
    columns = (*COUNTS, "outcome")
    db.wait_applied("b3_loads")
    return db.query(named("select {c} from b3_loads where table_name = %s order by load_id", c=columns), TICKS.name)


def test_a_run_over_some_sessions_writes_and_reports_those_only(legacy: Path, db: QuestDB) -> None:
    days = sessions_of_sample(legacy)
    with dg.instance_for_test() as instance:
        assert run(db, instance, first=days[2], last=days[4]).success
        assert stored_days(db) == days[2:5]
        assert materialized(instance) == dict.fromkeys(days[2:5], 3)
    assert ledger(db) == [(9, 9, 0, 0, 0, "partial")], "most of its file is still to come"


def test_runs_over_all_parts_make_one_whole_load_with_its_counts(legacy: Path, db: QuestDB) -> None:
    days = sessions_of_sample(legacy)
    with dg.instance_for_test() as instance:
        for first, last in ((days[5], days[9]), (days[0], days[4])):
            assert run(db, instance, first=first, last=last).success
        assert materialized(instance) == dict.fromkeys(days, 3)
    assert ledger(db) == [(30, 30, 0, 0, 0, "loaded")]
    assert stored_days(db) == days


def test_a_run_over_parts_and_one_over_everything_leave_the_same_rows(legacy: Path, db: QuestDB) -> None:
    days = sessions_of_sample(legacy)
    content = named("select {c} from b3_dxy_ticks order by ts, bucket", c=[c.name for c in TICKS.values] + ["ts"])
    with dg.instance_for_test() as instance:
        for day in (days[3], days[0]):
            assert run(db, instance, first=day, last=day).success
        assert run(db, instance).success
    in_parts = db.query(content)
    db.execute("truncate table b3_dxy_ticks")
    db.wait_applied(TICKS.name)
    with dg.instance_for_test() as instance:
        assert run(db, instance).success
    assert db.query(content) == in_parts
    assert len(in_parts) == 30


def test_a_run_over_everything_reports_each_session_that_it_changed_and_no_other(legacy: Path, db: QuestDB) -> None:
    days = sessions_of_sample(legacy)
    with dg.instance_for_test() as instance:
        assert run(db, instance).success
        assert materialized(instance) == dict.fromkeys(days, 3)
        assert run(db, instance).success
        reports = instance.fetch_materializations(dg.AssetKey(TICKS.name), limit=1_000).records
        assert sum(r.partition_key is not None for r in reports) == len(days), "the second run changed none"


def test_a_session_whose_rows_are_gone_comes_back_by_its_own_partition(legacy: Path, db: QuestDB) -> None:
    days = sessions_of_sample(legacy)
    with dg.instance_for_test() as instance:
        assert run(db, instance).success
        db.execute("truncate table b3_dxy_ticks")
        db.wait_applied(TICKS.name)
        assert run(db, instance, first=days[7], last=days[7]).success
    assert stored_days(db) == [days[7]]


def test_a_session_without_a_row_is_reported_with_none(legacy: Path, db: QuestDB) -> None:
    with dg.instance_for_test() as instance:
        assert run(db, instance, first="2024-01-02", last="2024-01-04").success
        assert materialized(instance) == {"2024-01-02": 0, "2024-01-03": 0, "2024-01-04": 0}


def test_a_report_of_a_session_names_the_files_that_its_rows_are_from(legacy: Path, db: QuestDB) -> None:
    day = sessions_of_sample(legacy)[0]
    with dg.instance_for_test() as instance:
        assert run(db, instance, first=day, last=day).success
        [record] = instance.fetch_materializations(dg.AssetKey(TICKS.name), limit=1).records
        assert record.asset_materialization
        metadata = record.asset_materialization.metadata
    loads = metadata["loads"]
    assert isinstance(loads, dg.TableMetadataValue)
    [load] = [r.data for r in loads.records]
    assert (load["file"], load["feed"], load["rows"]) == ("dxy_coleta.csv", "legacy_csv", 3)
    assert metadata["dagster/partition_row_count"].value == 3


def test_records_of_a_day_without_a_session_belong_to_the_session_before(legacy: Path, db: QuestDB) -> None:
    path = legacy / "dxy_coleta.csv"
    header, *rows = path.read_text().splitlines()
    saturday = rows[-1].replace(rows[-1].split(",")[0], "11-10-2025")
    path.write_text("\n".join([header, saturday]) + "\n")
    friday = "2025-10-10"
    with dg.instance_for_test() as instance:
        assert run(db, instance, first=friday, last=friday).success
        assert materialized(instance) == {friday: 3}
    assert stored_days(db) == ["2025-10-11"]


def test_a_record_without_a_date_is_in_its_files_account_and_in_no_partition(legacy: Path, db: QuestDB) -> None:
    path = legacy / "dxy_coleta.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1].replace("2025", "20x5", 1) + "\n")
    with dg.instance_for_test() as instance:
        assert run(db, instance).success
        assert sum(materialized(instance).values()) == 30
    assert ledger(db) == [(33, 30, 3, 0, 0, "loaded")]


def test_each_backfill_job_is_partitioned_and_a_range_is_one_run() -> None:
    defs = build_defs()
    for job in defs.get_repository_def().get_all_jobs():
        if job.name.startswith("backfill_") or job.name == "migrate":
            assert job.partitions_def == SESSIONS
    node = defs.resolve_asset_graph().get(dg.AssetKey(TICKS.name))
    assert node.backfill_policy == dg.BackfillPolicy.single_run()


def test_the_sample_of_these_tests_is_as_they_say(legacy: Path) -> None:
    days = sessions_of_sample(legacy)
    assert len(days) == 10
    assert date.fromisoformat(days[-1]) == date(2025, 10, 13)
