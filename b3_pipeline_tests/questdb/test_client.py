"""Talking to a real QuestDB."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from b3_pipeline.errors import B3Error
from b3_pipeline.questdb import client, schema
from b3_pipeline.questdb.client import Address, NotApplied, QuestDB, QuestDBError, as_arrow, named
from b3_pipeline.tables import TABLES

SNAPSHOTS = TABLES["b3_snapshots"]
TS = datetime(2025, 10, 13, 12, 0, 32, 123456)
ROW = (
    TS,
    date(2025, 10, 13),
    "09:00:32",
    "DI1",
    "X25",
    99121.69,
    None,
    "sucesso",
    None,
    TS,
    "legacy_capture",
    2**52 + 1,
)


def test_a_row_comes_back_as_it_was_sent_to_the_last_bit(db: QuestDB) -> None:
    db.send(SNAPSHOTS.name, as_arrow([ROW], SNAPSHOTS.arrow_schema()))
    db.wait_applied(SNAPSHOTS.name)
    rows = db.query(named("select {columns} from b3_snapshots", columns=[c.name for c in SNAPSHOTS.columns]))
    assert as_arrow(rows, SNAPSHOTS.arrow_schema()).to_pylist() == [
        dict(zip(SNAPSHOTS.arrow_schema().names, ROW, strict=True))
    ]


def test_many_rows_go_in_several_requests_and_all_show(db: QuestDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("b3_pipeline.questdb.client.ROWS_PER_REQUEST", 7)
    rows = [(*ROW[:3], "DI1", f"X{n:02}", *ROW[5:]) for n in range(40)]
    db.send(SNAPSHOTS.name, as_arrow(rows, SNAPSHOTS.arrow_schema()))
    db.wait_applied(SNAPSHOTS.name)
    assert db.scalar("select count() from b3_snapshots") == 40


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a single row count as many."""
    monkeypatch.setattr("b3_pipeline.questdb.client.MANY_ROWS", 1)


def test_many_rows_come_back_as_they_were_imported_to_the_last_bit(db: QuestDB, many: None) -> None:
    empty = (datetime(2025, 10, 13, 13), None, None, "DOL", "Z25", *(None,) * 4, TS, "legacy_csv", None)
    rows = [ROW, empty]
    db.send(SNAPSHOTS.name, as_arrow(rows, SNAPSHOTS.arrow_schema()))
    db.wait_applied(SNAPSHOTS.name)
    query = named("select {columns} from b3_snapshots order by ts", columns=[c.name for c in SNAPSHOTS.columns])
    form = SNAPSHOTS.arrow_schema()
    assert db.arrow(query, schema=form).to_pylist() == as_arrow(rows, form).to_pylist()


def test_a_column_with_one_value_is_stored_as_that_value(db: QuestDB, many: None) -> None:
    rows = [replace_at(ROW, 0, datetime(2025, 10, 13, hour)) for hour in range(5)]
    db.send(SNAPSHOTS.name, as_arrow(rows, SNAPSHOTS.arrow_schema()))
    db.wait_applied(SNAPSHOTS.name)
    assert db.query("select count(), ingested_at, feed, load_id from b3_snapshots") == [(5, *ROW[9:])]


def test_a_file_to_import_is_gone_afterwards_whatever_became_of_it(db: QuestDB, many: None) -> None:
    folder = Path(str(db.address.import_folder), SNAPSHOTS.name)
    rows = as_arrow([ROW], SNAPSHOTS.arrow_schema())
    db.send(SNAPSHOTS.name, rows)
    assert list(folder.iterdir()) == []
    with pytest.raises(QuestDBError, match="valeu"):
        db.send(SNAPSHOTS.name, rows.append_column("valeu", pa.array([1.0])))
    assert list(folder.iterdir()) == []
    (folder / "left.parquet").touch()
    db.forget_imports(SNAPSHOTS.name)
    assert not folder.exists()


IMPORTED = 1_000_000


@pytest.fixture
def import_under_way(db: QuestDB) -> Iterator[None]:
    """Another connection imports rows: as one of a killed process does, whose insert the server finishes."""
    numbers = np.arange(IMPORTED)
    rows = pa.table({"ts": np.datetime64(TS, "us") + numbers, "instrument": ["DI1"] * IMPORTED, "load_id": numbers})
    other = QuestDB(db.address)
    thread = threading.Thread(target=other.send, args=(SNAPSHOTS.name, rows))
    thread.start()
    while not db.query("select query_id from query_activity() where query like %s", "insert %"):
        assert thread.is_alive(), "the import ended before it was seen"
    yield
    thread.join()
    other.close()
    db.wait_applied(SNAPSHOTS.name)


def test_an_import_that_the_server_is_still_at_is_waited_for(db: QuestDB, import_under_way: None) -> None:
    db.forget_imports(SNAPSHOTS.name)
    db.wait_applied(SNAPSHOTS.name)
    assert db.scalar("select count() from b3_snapshots") == IMPORTED


def test_an_import_that_takes_too_long_is_an_error_that_says_how_to_break_it_off(
    db: QuestDB, import_under_way: None
) -> None:
    with QuestDB(db.address, apply_timeout_s=0) as impatient, pytest.raises(NotApplied, match=r"CANCEL QUERY \d+"):
        impatient.forget_imports(SNAPSHOTS.name)


def test_a_column_whose_chunks_have_one_value_each_keeps_all_of_them(db: QuestDB, many: None) -> None:
    rows = [as_arrow([replace_at(ROW, 3, name)], SNAPSHOTS.arrow_schema()) for name in ("DI1", "DOL")]
    db.send(SNAPSHOTS.name, pa.concat_tables(rows))
    db.wait_applied(SNAPSHOTS.name)
    assert db.query("select instrument from b3_snapshots order by instrument") == [("DI1",), ("DOL",)]


def test_an_import_folder_that_is_gone_is_made_again(db: QuestDB, many: None) -> None:
    shutil.rmtree(str(db.address.import_folder), ignore_errors=True)
    db.send(SNAPSHOTS.name, as_arrow([ROW], SNAPSHOTS.arrow_schema()))
    db.wait_applied(SNAPSHOTS.name)
    assert db.scalar("select count() from b3_snapshots") == 1


def test_a_table_that_is_not_there_is_an_error_that_says_what_to_do(db: QuestDB) -> None:
    with pytest.raises(QuestDBError, match=r"b3_nothing is not there.*b3 schema apply"):
        db.wait_applied("b3_nothing")


def test_a_server_elsewhere_is_sent_many_rows_as_few_ones(db: QuestDB, many: None) -> None:
    with QuestDB(replace(db.address, import_folder=None)) as elsewhere:
        elsewhere.send(SNAPSHOTS.name, as_arrow([ROW], SNAPSHOTS.arrow_schema()))
        elsewhere.forget_imports(SNAPSHOTS.name)
    db.wait_applied(SNAPSHOTS.name)
    assert db.scalar("select count() from b3_snapshots") == 1


def test_a_constant_text_is_no_sql(db: QuestDB, many: None) -> None:
    for instrument in ("x' or 1=1 --", "100%s {file}", r"C:\dados\'x", "\\"):
        db.send(SNAPSHOTS.name, as_arrow([replace_at(ROW, 3, instrument)], SNAPSHOTS.arrow_schema()))
        db.wait_applied(SNAPSHOTS.name)
        assert db.scalar("select count() from b3_snapshots where instrument = %s", instrument) == 1


def replace_at(row: tuple[Any, ...], place: int, value: object) -> tuple[Any, ...]:
    return (*row[:place], value, *row[place + 1 :])


def test_a_row_without_a_moment_is_never_sent(db: QuestDB) -> None:
    with pytest.raises(QuestDBError, match="has no ts"):
        db.send(SNAPSHOTS.name, as_arrow([(None, *ROW[1:])], SNAPSHOTS.arrow_schema()))
    db.wait_applied(SNAPSHOTS.name)
    assert db.scalar("select count() from b3_snapshots") == 0


def test_a_typo_makes_neither_a_table_nor_a_column(db: QuestDB) -> None:
    row = pa.table({"ts": pa.array([TS], pa.timestamp("us")), "valeu": [1.0]})
    for table in ("b3_snapshot", "b3_snapshots"):
        with pytest.raises(QuestDBError, match="did not take rows"):
            db.send(table, row)
    assert not db.query("select 1 from tables() where table_name = %s", "b3_snapshot")


def test_rows_reach_a_table_that_was_dropped_and_made_again(db: QuestDB) -> None:
    rows = as_arrow([ROW], SNAPSHOTS.arrow_schema())
    db.send(SNAPSHOTS.name, rows)
    db.execute(f"DROP TABLE {SNAPSHOTS.name}")
    db.execute(next(s for m in schema.migrations() for s in m.statements if f"{SNAPSHOTS.name} (" in s))
    db.send(SNAPSHOTS.name, rows)
    db.wait_applied(SNAPSHOTS.name)
    assert db.scalar("select count() from b3_snapshots") == 1


def test_a_suspended_table_is_an_error_that_says_how_to_go_on(db: QuestDB) -> None:
    db.execute("ALTER TABLE b3_snapshots SUSPEND WAL")
    try:
        db.send(SNAPSHOTS.name, as_arrow([ROW], SNAPSHOTS.arrow_schema()))
        with pytest.raises(NotApplied, match="RESUME WAL"):
            db.wait_applied(SNAPSHOTS.name)
    finally:
        db.execute("ALTER TABLE b3_snapshots RESUME WAL")
        db.wait_applied(SNAPSHOTS.name)


def test_values_are_bound_so_that_text_is_never_sql(db: QuestDB) -> None:
    assert db.query("select count() from b3_loads where file = %s", "x' or 1=1 --") == [(0,)]


def test_names_are_quoted() -> None:
    assert named("select {c} from {t}", t='a"b', c=["x", "y z"]).as_string() == 'select "x", "y z" from "a""b"'


def test_a_client_can_be_used_again_after_its_connection_broke(db: QuestDB) -> None:
    assert db._pg is not None
    db._pg.close()
    assert db.scalar("select 1") == 1


def test_a_connection_that_lay_idle_is_not_used_again(db: QuestDB, monkeypatch: pytest.MonkeyPatch) -> None:
    db.query("select 1")
    first = db._pg
    db.query("select 1")
    assert db._pg is first
    monkeypatch.setattr(client, "IDLE_S", -1.0)
    assert db.query("select 1") == [(1,)]
    assert first is not None
    assert first.closed
    assert db._pg is not first


def test_a_connection_whose_rows_are_still_coming_does_not_lie_idle(db: QuestDB, many: None) -> None:
    db.send(SNAPSHOTS.name, as_arrow([ROW, replace_at(ROW, 0, datetime(2025, 10, 14))], SNAPSHOTS.arrow_schema()))
    db.wait_applied(SNAPSHOTS.name)
    query = named("select {columns} from b3_snapshots order by ts", columns=[c.name for c in SNAPSHOTS.columns])
    with QuestDB(db.address) as other:
        for asked_at in (0.0, time.monotonic() - 10 * client.IDLE_S):
            other._asked_at = asked_at
            assert other.arrow(query, schema=SNAPSHOTS.arrow_schema()).num_rows == 2  # it asks beside, within


def test_no_text_of_an_address_or_an_error_shows_a_password(db: QuestDB) -> None:
    address = replace(db.address, password="very-secret", reader_password="very-secret")
    assert "very-secret" not in f"{address} {address!r}"
    with QuestDB(address) as client:
        for attempt in (lambda: client.query("select 1"), lambda: client.execute("select 1")):
            with pytest.raises(QuestDBError) as error:
                attempt()
            assert "very-secret" not in str(error.value)
        with pytest.raises(QuestDBError) as error:
            client.send(SNAPSHOTS.name, as_arrow([ROW], SNAPSHOTS.arrow_schema()))
        assert "very-secret" not in str(error.value)


def test_a_server_of_ones_own_is_named_by_a_url() -> None:
    address = Address.from_url("http://joe:pa%2Fss@db.example:9001?pg_port=8813")
    assert (address.http_url, address.user, address.password) == ("http://db.example:9001", "joe", "pa/ss")
    assert (address.pg_host, address.pg_port, address.reader) == ("db.example", 8813, "joe")


@pytest.mark.parametrize("url", ["db.example:9000", "ftp://db.example", "http://", "http://h?pg_port=x"])
def test_a_url_of_another_form_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(B3Error, match="must look like"):
        Address.from_url(url)
