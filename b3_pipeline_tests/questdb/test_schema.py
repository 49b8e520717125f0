"""The versioned schema: applied once, remembered, and compared three ways."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from b3_pipeline.questdb import schema
from b3_pipeline.questdb.client import QuestDB
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


@pytest.fixture
def clean(db: QuestDB) -> Iterator[QuestDB]:
    """A database whose history and probe table are put back as they were afterwards."""
    yield db
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
    assert [v.state for v in schema.status(clean, changed)] == ["applied", "changed"]


def test_a_file_that_is_gone_is_refused(clean: QuestDB) -> None:
    schema.apply(clean, lambda: NOW, files())
    with pytest.raises(SchemaError, match="its file is gone"):
        schema.apply(clean, lambda: NOW)
    assert [v.state for v in schema.status(clean)] == ["applied", "missing"]


def test_the_kind_of_newline_is_no_change() -> None:
    assert replace(EXTRA, text=EXTRA.text.replace("\n", "\r\n")).checksum == EXTRA.checksum


def test_status_names_what_is_pending(clean: QuestDB) -> None:
    assert [(v.version, v.state) for v in schema.status(clean, files())] == [(1, "applied"), (901, "pending")]


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
    [first] = schema.migrations()
    edited = replace(first, text=first.text.replace("open_interest    LONG", "open_interest    DOUBLE"))
    assert schema.diff(db, [edited]) == {
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
