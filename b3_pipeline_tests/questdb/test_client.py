"""Talking to a real QuestDB."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime

import pyarrow as pa
import pytest

from b3_pipeline.errors import B3Error
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
