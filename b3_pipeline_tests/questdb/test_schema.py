"""The versioned schema: applied once, remembered, and compared three ways."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from b3_pipeline.questdb import schema
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.questdb.schema import Migration, SchemaError
from b3_pipeline.tables import TABLES

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
EXTRA = Migration(
    901,
    "probe",
    "-- a comment; with a semicolon\nCREATE TABLE IF NOT EXISTS t_probe (\n  ts TIMESTAMP,\n  v DOUBLE\n)"
    " TIMESTAMP(ts) PARTITION BY DAY WAL\nDEDUP UPSERT KEYS(ts);\n"
    "ALTER TABLE t_probe ADD COLUMN IF NOT EXISTS extra LONG;",
)
VIEW = Migration(902, "view", "CREATE OR REPLACE VIEW v_probe AS (\n  SELECT ts, v FROM t_probe WHERE v > 1\n);")
APPLIED = [m.version for m in schema.migrations()]
# Another process that applies the schema: it says that it is ready, waits for its word, and says what it applied.
APPLY = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from b3_pipeline.questdb import schema
from b3_pipeline.questdb.client import Address, QuestDB
address, lock = json.loads(sys.argv[1])
with QuestDB(Address(**address)) as db:
    db.query("select 1")
    files = [*schema.migrations(), schema.Migration(901, "probe", sys.argv[2])]
    print("ready", flush=True)
    sys.stdin.readline()
    done = schema.apply(db, lambda: datetime.now(UTC), files, Path(lock) if lock else None)
    print(json.dumps([m.version for m in done]))
"""


@pytest.fixture
def clean(db: QuestDB) -> Iterator[QuestDB]:
    """A database whose history and probe table are put back as they were afterwards."""
    yield db
    db.execute("DROP VIEW IF EXISTS v_probe")
    db.execute("DROP TABLE IF EXISTS t_probe")
    db.execute(f"DROP TABLE {schema.HISTORY}")
    schema.apply(db, lambda: NOW)


def files() -> list[Migration]:
    return [*schema.migrations(), EXTRA]


def test_the_files_the_contract_and_the_server_say_the_same(db: QuestDB) -> None:
    assert schema.diff(db) == {}
    assert set(schema.sql_shapes(schema.migrations())) == set(TABLES)


def test_apply_runs_what_is_pending_once_and_remembers_checksum_time_and_duration(clean: QuestDB) -> None:
    assert schema.apply(clean, lambda: NOW, files()) == [EXTRA]
    assert schema.apply(clean, lambda: NOW, files()) == []
    line = schema.history(clean)[901]
    assert (line.name, line.checksum, line.at) == ("probe", EXTRA.checksum, NOW.replace(tzinfo=None))
    assert line.seconds > 0
    shape = schema.server_shape(clean, "t_probe")
    assert shape == schema.sql_shapes([EXTRA])["t_probe"]


def test_an_apply_that_was_cut_off_is_simply_run_again(clean: QuestDB) -> None:
    clean.execute(EXTRA.statements[0])
    assert schema.apply(clean, lambda: NOW, files()) == [EXTRA]


def test_a_changed_old_file_is_refused(clean: QuestDB) -> None:
    schema.apply(clean, lambda: NOW, files())
    changed = [*schema.migrations(), replace(EXTRA, text=EXTRA.text + "\n-- more")]
    with pytest.raises(SchemaError, match=r"V901__probe\.sql has changed since"):
        schema.apply(clean, lambda: NOW, changed)
    assert [v.state for v in schema.status(clean, changed)] == ["applied"] * len(APPLIED) + ["changed"]


def test_a_file_that_is_gone_is_refused(clean: QuestDB) -> None:
    schema.apply(clean, lambda: NOW, files())
    with pytest.raises(SchemaError, match="its file is gone"):
        schema.apply(clean, lambda: NOW)
    assert [v.state for v in schema.status(clean)] == ["applied"] * len(APPLIED) + ["missing"]


def test_the_kind_of_newline_is_no_change() -> None:
    assert replace(EXTRA, text=EXTRA.text.replace("\n", "\r\n")).checksum == EXTRA.checksum


def test_status_names_what_is_pending(clean: QuestDB) -> None:
    expected = [*((version, "applied") for version in APPLIED), (901, "pending")]
    assert [(v.version, v.state) for v in schema.status(clean, files())] == expected


def test_drift_of_the_server_is_named_column_by_column(db: QuestDB) -> None:
    wanted = schema.contract_shape(TABLES["b3_gamma_levels"])
    found = replace(
        wanted,
        columns=tuple(
            ("strange", "LONG") if c == "status" else (c, "LONG" if c == "put_wall" else t) for c, t in wanted.columns
        ),
        partition_by="MONTH",
        wal=False,
        keys=frozenset({"ts"}),
    )
    assert schema.differences(wanted, found) == [
        "column status SYMBOL is missing",
        "column strange LONG is not in the contract",
        "column put_wall is LONG, not DOUBLE",
        "partition_by is MONTH, not DAY",
        "wal is False, not True",
        "DEDUP keys are (ts), not (feed, instrument, ts)",
    ]
    assert schema.differences(wanted, None) == ["the table is missing"]


def test_drift_between_files_and_contract_is_named(db: QuestDB) -> None:
    first, *others = schema.migrations()
    edited = replace(first, text=first.text.replace("open_interest    LONG", "open_interest    DOUBLE"))
    assert schema.diff(db, [edited, *others]) == {
        "b3_adjustments": {"sql": ["column open_interest is DOUBLE, not LONG"], "server": []}
    }


def test_a_statement_that_the_drift_report_cannot_read_is_an_error() -> None:
    with pytest.raises(SchemaError, match="cannot read this statement"):
        schema.sql_shapes([Migration(1, "x", "DROP TABLE b3_loads;")])


@pytest.mark.parametrize(
    ("names", "message"),
    [(["V1__a.sql", "V01__b.sql"], "Two schema files have version 1"), (["first.sql"], "is named V<number>")],
)
def test_a_file_name_that_gives_no_clear_version_is_an_error(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(SchemaError, match=message):
        schema.migrations(tmp_path)


@pytest.mark.parametrize("shared_lock", [True, False], ids=["one home", "two homes"])
def test_two_processes_that_apply_at_once_leave_one_line_a_version(
    clean: QuestDB, tmp_path: Path, shared_lock: bool
) -> None:
    clean.execute(f"DROP TABLE {schema.HISTORY}")
    given = json.dumps([asdict(clean.address), str(tmp_path / "lock") if shared_lock else None])
    command = [sys.executable, "-c", APPLY, given, EXTRA.text]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("now\n")
        process.stdin.flush()
    done = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], done
    applied = [json.loads(out) for out, _ in done]
    everything = [*APPLIED, 901]
    if shared_lock:
        assert sorted(applied, key=len) == [[], everything]
    assert everything in applied
    lines = clean.query(named("select version from {history} order by version", history=schema.HISTORY))
    assert lines == [(version,) for version in everything]
    assert schema.server_shape(clean, "t_probe") == schema.sql_shapes([EXTRA])["t_probe"]
    assert schema.diff(clean) == {}


def test_a_history_of_an_older_release_keeps_its_times_and_grows(clean: QuestDB) -> None:
    clean.execute(f"DROP TABLE {schema.HISTORY}")
    clean.execute(
        f"CREATE TABLE {schema.HISTORY} (ts TIMESTAMP, version LONG, name VARCHAR, checksum VARCHAR, seconds DOUBLE) "
        "TIMESTAMP(ts) PARTITION BY YEAR WAL DEDUP UPSERT KEYS(ts, version)"
    )
    for migration in schema.migrations():
        clean.execute(
            f"INSERT INTO {schema.HISTORY} VALUES "
            f"('2025-10-01', {migration.version}, '{migration.name}', '{migration.checksum}', 0.1)"
        )
    clean.wait_applied(schema.HISTORY)
    assert {line.at for line in schema.history(clean).values()} == {datetime(2025, 10, 1)}
    assert schema.apply(clean, lambda: NOW, files()) == [EXTRA]
    times = [line.at for line in schema.history(clean).values()]
    assert times == [datetime(2025, 10, 1)] * len(APPLIED) + [NOW.replace(tzinfo=None)]


def test_a_view_is_applied_found_to_drift_and_made_again(clean: QuestDB) -> None:
    with_view = [*files(), VIEW]
    assert schema.apply(clean, lambda: NOW, with_view) == [EXTRA, VIEW]
    assert schema.diff(clean, with_view) == {}
    spoiled = {
        "DROP VIEW v_probe": "the view is missing",
        "CREATE OR REPLACE VIEW v_probe AS (SELECT ts, v FROM t_probe)": "the view asks something else: SELECT ts, v FROM",
    }
    for statement, problem in spoiled.items():
        clean.execute(statement)
        [found] = schema.diff(clean, with_view)["v_probe"]["server"]
        assert found.startswith(problem)
        assert schema.restore(clean, with_view) == ["v_probe"]
        assert schema.diff(clean, with_view) == {}


def test_a_view_whose_table_is_gone_cannot_be_asked_until_both_are_made_again(clean: QuestDB) -> None:
    with_view = [*files(), VIEW]
    schema.apply(clean, lambda: NOW, with_view)
    clean.execute("DROP TABLE t_probe")
    [found] = schema.diff(clean, with_view)["v_probe"]["server"]
    assert "cannot be asked" in found
    assert schema.restore(clean, with_view)[0] == "t_probe"
    assert schema.diff(clean, with_view) == {}


def test_the_layout_of_a_view_is_no_drift_and_the_last_file_counts() -> None:
    other = replace(VIEW, version=903, text="CREATE OR REPLACE VIEW v_probe AS (SELECT   v\nFROM t_probe);")
    assert schema.sql_views([VIEW]) == {"v_probe": "SELECT ts, v FROM t_probe WHERE v > 1"}
    assert schema.sql_views([VIEW, other]) == {"v_probe": "SELECT v FROM t_probe"}
