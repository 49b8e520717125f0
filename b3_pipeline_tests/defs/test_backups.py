"""The job `backup` makes a backup, proves it, and says so in its metadata; a damaged one turns its check red."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from b3_pipeline.backup.backups import newest_verified
from b3_pipeline.definitions import build_defs
from b3_pipeline.places import backups_of
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.settings import Settings
from b3_pipeline.tables import TABLES


def write_ticks(db: QuestDB) -> None:
    table = TABLES["b3_dxy_ticks"]
    row = {"ts": datetime(2025, 10, 13, 12), "bucket": "dxy_09h00", "value": 0.25, "feed": "legacy_csv", "load_id": 1}
    db.send(table.name, pa.Table.from_pylist([row], table.arrow_schema()))
    db.wait_applied(table.name)


def test_the_job_makes_a_backup_and_proves_it_and_the_check_finds_a_damaged_one(
    home: Path, bare_home: Path, db: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B3_HOME", str(bare_home))  # the trial's PostgreSQL is another user, under root
    write_ticks(db)
    defs, where = build_defs(), backups_of(Settings())
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("backup").execute_in_process(instance=instance)
        [made] = result.asset_materializations_for_node("backups")
        newest = newest_verified(where)
        assert newest is not None
        assert made.metadata["backup"].value == newest.id
        assert made.metadata["dagster/row_count"].value == newest.manifest.rows > 0
        assert made.metadata["forms"].value == "parquet"  # the tests' QuestDB is a server of one's own
        assert [check.passed for check in result.get_asset_check_evaluations()] == [True]

        (bare_home / "backups" / newest.id / "postgres.dump").write_bytes(b"cut off")
        again = defs.resolve_job_def("verify_backup").execute_in_process(instance=instance)
        [check] = again.get_asset_check_evaluations()
        assert not check.passed
        assert "postgres.dump is damaged" in str(check.description)
        assert newest_verified(where) is None
