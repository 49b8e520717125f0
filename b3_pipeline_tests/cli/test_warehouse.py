"""b3 warehouse load and status, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest

from b3_pipeline import migration_log
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import ALWAYS
from b3_pipeline.warehouse.copying import rows_of
from b3_pipeline.warehouse.exports import manifests
from b3_pipeline.warehouse.loading import head, warehouse
from b3_pipeline_tests.cli.commands import answer, b3
from b3_pipeline_tests.warehouse.filled import NOW, SIGNALS, arrow, empty, exported, ninety_days, put, signal

MONDAY = datetime(2025, 10, 13, 12)


@pytest.fixture(autouse=True)
def without_warehouse(postgres: str) -> None:
    empty(postgres)


@pytest.fixture
def nothing_taken(postgres: str) -> Iterator[None]:
    """No retention has taken anything away, before and afterwards."""

    def forget() -> None:
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute("drop table if exists b3.retention_log, b3.retention_holds, b3.retention_rules")

    forget()
    yield
    forget()


def test_load_says_of_each_partition_what_became_of_it_and_status_how_all_stands(home: Path, db: QuestDB) -> None:
    put(db, SIGNALS, *(signal(MONDAY - timedelta(days=back)) for back in range(3)))
    exports = exported(db, home / "exports", SIGNALS)
    before = answer("warehouse", "status", code=1)
    assert (before["ok"], before["schema"], before["release"]) == (False, None, head())
    assert before["items"][0]["behind"] == ["2025-10-11", "2025-10-12"]
    done = answer("warehouse", "load")
    assert done["ok"]
    assert [(i["table"], i["name"], i["rows"], i["action"], i["source"]) for i in done["items"]] == [
        ("tp_capital_signals", "2025-10-11", 1, "loaded", "export"),
        ("tp_capital_signals", "2025-10-12", 1, "loaded", "export"),
        ("tp_capital_signals", "2025-10-13", 1, "loaded", "open"),
    ]
    assert done["items"][0]["checksum"] == manifests(exports, SIGNALS)["2025-10-11"].checksum
    assert {i["action"] for i in answer("warehouse", "load", "--table", "tp_capital_signals")["items"]} == {"unchanged"}
    after = answer("warehouse", "status")
    assert after["ok"]
    assert after["items"][0] == {
        "table": "tp_capital_signals",
        "rows": 3,
        "partitions": 3,
        "newest": "2025-10-13",
        "loaded_at": "2025-10-14T15:00:00Z",
        "behind": [],
    }
    [step] = migration_log.steps(home)
    assert (step["kind"], step["outcome"]) == ("warehouse", "done")
    assert step["title"] == f"The warehouse's schema: version none to {head()}"


def test_a_damaged_export_fails_the_command_and_names_itself(home: Path, db: QuestDB) -> None:
    put(db, SIGNALS, *(signal(MONDAY - timedelta(days=back)) for back in range(3)))
    exports = exported(db, home / "exports", SIGNALS)
    file = home / "exports" / manifests(exports, SIGNALS)["2025-10-11"].files[0].name
    file.unlink()
    shown = b3("warehouse", "load", code=1)
    assert "Damaged: tp_capital_signals 2025-10-11" in " ".join(shown.output.split())
    assert "missing" in shown.output
    assert answer("warehouse", "status", code=1)["items"][0]["behind"] == ["2025-10-11"]
    assert "brings it up to date" in b3("warehouse", "status", code=1).output


def test_people_see_a_line_a_table(home: Path, db: QuestDB) -> None:
    put(db, SIGNALS, signal(MONDAY))
    assert "tp_capital_signals" in b3("warehouse", "load").output
    assert "2025-10-13" in b3("warehouse", "status").output


def test_what_a_retention_takes_away_stays_in_the_warehouse_row_for_row(
    home: Path, db: QuestDB, postgres: str, nothing_taken: None
) -> None:
    sent = ninety_days(NOW.date())
    put(db, SIGNALS, *sent)
    assert answer("export", "tp_capital_signals")["ok"]
    assert answer("warehouse", "load")["ok"]
    dropped = [item["name"] for item in answer("retention")["items"] if item["action"] == "dropped"]
    assert len(dropped) == 59  # of the thirty-first day the afternoon is within the limit
    assert db.scalar("select count() from tp_capital_signals") < len(sent)
    assert {item["action"] for item in answer("warehouse", "load")["items"]} == {"unchanged"}
    with warehouse(postgres) as connection:
        kept = pa.concat_tables(rows_of(connection, SIGNALS, ALWAYS)).to_pylist()
    given = arrow(SIGNALS, sent).to_pylist()
    assert sorted(map(repr, kept)) == sorted(map(repr, given))
    answer("retention", "restore", "tp_capital_signals", dropped[-1], "--why", "for a question")
    assert {item["action"] for item in answer("warehouse", "load")["items"]} == {"unchanged"}


def test_a_table_that_the_warehouse_has_not_is_wrong_usage(home: Path) -> None:
    assert "b3_loads is no table of the warehouse" in b3("warehouse", "load", "--table", "b3_loads", code=2).output
