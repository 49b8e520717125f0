"""Loading the warehouse out of exports, on real servers: row for row, once, whole or not at all."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.places import place
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import Window
from b3_pipeline.tables import TABLES
from b3_pipeline.warehouse import copying, loading
from b3_pipeline.warehouse.checksums import checksum
from b3_pipeline.warehouse.copying import copied, rows_of
from b3_pipeline.warehouse.exports import manifest_name, manifests, partitions, read
from b3_pipeline.warehouse.loading import (
    STEPS,
    Loading,
    WarehouseError,
    head,
    noted,
    replace,
    schema_version,
    upgrade,
    warehouse,
)
from b3_pipeline.warehouse.model import SCHEMA, WAREHOUSE_TABLES, metadata
from b3_pipeline_tests.faults import some
from b3_pipeline_tests.warehouse.filled import (
    AWKWARD,
    DELETED,
    NOW,
    SIGNALS,
    arrow,
    asked,
    exported,
    load,
    ninety_days,
    put,
    signal,
)

MONDAY = datetime(2025, 10, 13, 12)


def actions(outcomes: list[Any]) -> dict[str, str]:
    return {outcome.partition: outcome.action for outcome in outcomes}


# The schema


def test_the_migrations_make_what_the_model_says(dsn: str) -> None:
    assert upgrade(dsn) == (None, head())
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    names = {table.name for table in WAREHOUSE_TABLES}

    def ours(thing: Any, name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
        return kind == "column" or (kind == "table" and name in names and thing.schema == SCHEMA)

    with engine.connect() as connection:
        options = {"include_schemas": True, "include_object": ours, "compare_type": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata()) == []
    engine.dispose()


def test_an_upgrade_that_is_made_twice_at_once_or_again_is_made_once(dsn: str) -> None:
    found: list[tuple[str | None, str]] = []
    threads = [threading.Thread(target=lambda: found.append(upgrade(dsn))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert upgrade(dsn) == (head(), head())


def test_a_downgrade_leaves_nothing_and_an_upgrade_follows(dsn: str) -> None:
    from alembic import command
    from alembic.config import Config

    upgrade(dsn)
    config = Config()
    config.set_main_option("script_location", str(loading.MIGRATIONS))
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=sa.NullPool)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    left = asked(
        dsn, "select relname from pg_class where relnamespace = 'warehouse'::regnamespace and relkind in ('r', 'v')"
    )
    assert left == [("alembic_version",)]
    assert upgrade(dsn) == (None, head())


def test_a_schema_of_a_newer_release_is_left_as_it_is(dsn: str) -> None:
    upgrade(dsn)
    asked(dsn, "update warehouse.alembic_version set version_num = '9999' returning 1")
    with pytest.raises(WarehouseError, match="newer release"):
        upgrade(dsn)
    with warehouse(dsn) as db:
        assert schema_version(db) == "9999"


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(WarehouseError, match="PostgreSQL does not answer") as told:
        upgrade("postgresql://b3:s3cret%40word@127.0.0.1:1/b3")
    assert "s3cret" not in str(told.value)


def test_a_schema_that_cannot_be_made_is_told_and_nothing_is_left(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("create schema warehouse")
        db.execute("create table warehouse.loads (x int)")
    with pytest.raises(WarehouseError, match=r"left as it is: .*already exists"):
        upgrade(dsn)
    tables = asked(dsn, "select tablename from pg_tables where schemaname = 'warehouse'")
    assert tables == [("loads",)]


# Rows


def test_ninety_days_of_signals_are_in_the_warehouse_row_for_row_as_in_the_exports(
    db: QuestDB, dsn: str, tmp_path: Path
) -> None:
    put(db, SIGNALS, *ninety_days(date(2025, 10, 13)))
    exports = exported(db, tmp_path / "exports", SIGNALS)
    done = load(dsn, db, exports, tmp_path, SIGNALS)
    assert len(done) == 90
    assert {(o.action, o.source) for o in done} == {("loaded", "export"), ("loaded", "open")}
    assert done[-1].source == "open"
    assert len(manifests(exports, SIGNALS)) == 89
    with warehouse(dsn) as connection:
        for manifest in manifests(exports, SIGNALS).values():
            given = pa.concat_tables(read(exports, manifest)).to_pylist()
            stored = pa.concat_tables(rows_of(connection, SIGNALS, manifest.window)).to_pylist()
            assert sorted(stored, key=repr) == sorted(given, key=repr)
        today = pa.concat_tables(rows_of(connection, SIGNALS, Window(datetime(2025, 10, 13))))
    columns, rows = db.table("select * from tp_capital_signals where ts >= '2025-10-13'")
    assert sorted(map(repr, today.to_pylist())) == sorted(repr(dict(zip(columns, row, strict=True))) for row in rows)
    assert asked(dsn, "select count(*) from warehouse.signals") == [
        (db.scalar("select count() from tp_capital_signals"),)
    ]


def test_the_same_export_again_changes_nothing_and_another_takes_its_place(
    db: QuestDB, dsn: str, tmp_path: Path
) -> None:
    put(db, SIGNALS, signal(MONDAY - timedelta(days=1)), signal(MONDAY))
    exports = exported(db, tmp_path / "exports", SIGNALS)
    assert actions(load(dsn, db, exports, tmp_path, SIGNALS)) == {"2025-10-12": "loaded", "2025-10-13": "loaded"}
    rows = "select xmin, * from warehouse.tp_capital_signals order by ts"
    before = asked(dsn, rows)
    assert actions(load(dsn, db, exports, tmp_path, SIGNALS)) == {"2025-10-12": "unchanged", "2025-10-13": "unchanged"}
    assert asked(dsn, rows) == before
    put(db, SIGNALS, signal(MONDAY - timedelta(days=1, hours=1), "VALEW591"))
    exported(db, tmp_path / "exports", SIGNALS)
    assert actions(load(dsn, db, exports, tmp_path, SIGNALS)) == {"2025-10-12": "loaded", "2025-10-13": "unchanged"}
    assert asked(dsn, "select asset from warehouse.signals order by ts") == [
        ("VALEW591",),
        ("PETRK340",),
        ("PETRK340",),
    ]


def test_the_open_partition_follows_the_table_and_then_its_export(db: QuestDB, dsn: str, tmp_path: Path) -> None:
    table = TABLES["b3_adjustments"]
    row = {"instrument": "DOL", "contract_month": "X25", "price_settlement": 5500.0, "trade_date": date(2025, 10, 10)}
    row |= {"feed": "b3_sprd", "load_id": 1}
    put(db, table, {**row, "ts": datetime(2025, 10, 10, 22, 30)})
    exports = exported(db, tmp_path / "exports", table)
    [first] = load(dsn, db, exports, tmp_path, table)
    assert (first.partition, first.action, first.source) == ("2025-10", "loaded", "open")
    put(db, table, {**row, "ts": datetime(2025, 11, 3, 22, 30), "trade_date": date(2025, 11, 3)})
    kept, opened = load(dsn, db, exported(db, tmp_path / "exports", table), tmp_path, table)
    assert (kept.partition, kept.action, kept.source) == ("2025-10", "unchanged", "export")
    assert (opened.partition, opened.action, opened.source) == ("2025-11", "loaded", "open")
    put(db, table, {**row, "ts": datetime(2025, 11, 4, 22, 30), "trade_date": date(2025, 11, 4)})
    assert [o.action for o in load(dsn, db, exports, tmp_path, table)] == ["unchanged", "loaded"]
    assert asked(dsn, "select count(*) from warehouse.b3_adjustments") == [(3,)]
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_damaged_export_is_not_loaded_and_the_others_are(db: QuestDB, dsn: str, tmp_path: Path) -> None:
    put(db, SIGNALS, *(signal(MONDAY - timedelta(days=back)) for back in range(4)))
    exports = exported(db, tmp_path / "exports", SIGNALS)
    found = manifests(exports, SIGNALS)
    file = tmp_path / "exports" / found["2025-10-11"].files[0].name
    file.write_bytes(file.read_bytes()[:-9] + b"x" * 9)
    manifest = tmp_path / "exports" / "tp_capital_signals" / "_manifests" / "2025-10-12.json"
    manifest.write_text(manifest.read_text().replace('"rows": 1', '"rows": 2'))
    done = load(dsn, db, exports, tmp_path, SIGNALS)
    assert actions(done) == {
        "2025-10-10": "loaded",
        "2025-10-11": "damaged",
        "2025-10-12": "damaged",
        "2025-10-13": "loaded",
    }
    reasons = {outcome.partition: outcome.reason for outcome in done}
    assert "SHA-256" in reasons["2025-10-11"]
    assert "manifest cannot be read" in reasons["2025-10-12"]
    assert asked(dsn, "select ts::date from warehouse.signals order by 1") == [
        (date(2025, 10, 10),),
        (date(2025, 10, 13),),
    ]


def test_rows_that_are_fewer_than_the_export_says_leave_the_partition_as_it_was(
    db: QuestDB, dsn: str, tmp_path: Path
) -> None:
    put(db, SIGNALS, signal(MONDAY))
    load(dsn, db, place(tmp_path / "exports"), tmp_path, SIGNALS)
    window = Window(datetime(2025, 10, 13), datetime(2025, 10, 14))
    none = arrow(SIGNALS, [])
    told = pytest.raises(WarehouseError, match="0 rows came instead of 5")
    with told, warehouse(dsn) as connection, connection.transaction():
        replace(connection, SIGNALS, window, 5, [none])
    assert asked(dsn, "select count(*) from warehouse.tp_capital_signals") == [(1,)]


def test_what_may_not_be_written_is_told(db: QuestDB, dsn: str, tmp_path: Path) -> None:
    put(db, SIGNALS, signal(MONDAY))
    upgrade(dsn)
    twice = arrow(SIGNALS, [signal(MONDAY), signal(MONDAY)])
    window = Window(datetime(2025, 10, 13), datetime(2025, 10, 14))
    told = pytest.raises(WarehouseError, match="duplicate key")
    with told, warehouse(dsn) as connection, connection.transaction():
        replace(connection, SIGNALS, window, 2, [twice])


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.just(AWKWARD)
NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
MOMENTS = st.datetimes(datetime(2025, 1, 1), datetime(2025, 12, 31))


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "ts": MOMENTS,
            "channel": TEXTS,
            "signal_type": TEXTS,
            "asset": TEXTS,
            "buy_min": NUMBERS,
            "raw_message": st.none() | TEXTS,
            "source": st.none() | TEXTS,
            "ingested_at": st.none() | MOMENTS,
        }
    ),
    max_size=6,
    unique_by=lambda row: (row["ts"], row["channel"], row["signal_type"], row["asset"]),
)


def test_any_row_comes_back_from_the_warehouse_as_it_went_in(dsn: str) -> None:
    upgrade(dsn)
    with warehouse(dsn) as connection:

        @given(ROWS)
        def comes_back(rows: list[dict[str, Any]]) -> None:
            given = arrow(SIGNALS, rows)
            replace(connection, SIGNALS, Window(), len(rows), [given])
            back = pa.concat_tables([arrow(SIGNALS, []), *rows_of(connection, SIGNALS, Window())])
            assert sorted(map(repr, back.to_pylist())) == sorted(map(repr, given.to_pylist()))
            assert checksum(SIGNALS, [back]) == checksum(SIGNALS, [given])

        comes_back()


def test_whole_numbers_days_and_nulls_come_back_too(dsn: str) -> None:
    upgrade(dsn)
    table = TABLES["b3_adjustments"]
    row = {"ts": datetime(2025, 10, 13, 22, 30, 0, 5), "instrument": "DI1", "contract_month": "F27", "feed": "b3_sprd"}
    rows = arrow(
        table,
        [
            {**row, "price_settlement": 86_153.27, "trade_date": date(2025, 10, 13), "open_interest": 2**53 + 1},
            {**row, "contract_month": "F29", "load_id": 1_795_325_915_228_450},
        ],
    )
    window = Window(datetime(2025, 10, 1), datetime(2025, 11, 1))
    with warehouse(dsn) as connection:
        replace(connection, table, window, 2, [rows])
        back = pa.concat_tables(rows_of(connection, table, window))
    assert sorted(map(repr, back.to_pylist())) == sorted(map(repr, rows.to_pylist()))
    assert copied(arrow(table, [])) == b""


def test_feeds_and_tickers_are_described_as_they_come_and_anew_by_each_upgrade(
    db: QuestDB, dsn: str, tmp_path: Path
) -> None:
    gamma = TABLES["b3_gamma_levels"]
    put(db, SIGNALS, signal(MONDAY, "WINZ25"), signal(MONDAY, "ITUBX36"))
    put(db, gamma, {"ts": MONDAY, "instrument": "VIX", "call_wall": 25.0, "feed": "legacy_csv", "load_id": 1})
    load(dsn, db, place(tmp_path / "exports"), tmp_path)
    query = (
        "select asset, kind, underlying, option_right, expiry_month, instrument, contract_month from warehouse.assets"
    )
    described = [
        ("ITUBX36", "option", "ITUB", "put", 12, None, None),
        ("WINZ25", "future", None, None, None, "WIN", "Z25"),
    ]
    assert sorted(asked(dsn, query)) == described
    assert asked(dsn, "select feed, rank, legacy from warehouse.feeds") == [("legacy_csv", 2, True)]
    asked(dsn, "update warehouse.assets set kind = 'other' returning 1")
    asked(dsn, "update warehouse.days set front = 'F00' where day = '2025-10-13' returning 1")
    upgrade(dsn)
    assert sorted(asked(dsn, query)) == described
    assert asked(dsn, "select front, index_front from warehouse.days where day = '2025-10-13'") == [("X25", "Z25")]


def test_an_export_without_rows_takes_none_out_of_the_warehouse(db: QuestDB, dsn: str, tmp_path: Path) -> None:
    put(db, SIGNALS, signal(MONDAY - timedelta(days=1)), signal(MONDAY))
    exports = exported(db, tmp_path / "exports", SIGNALS)
    load(dsn, db, exports, tmp_path, SIGNALS)
    manifest = manifests(exports, SIGNALS)["2025-10-12"]
    none = dataclasses.replace(manifest, rows=0, files=(), checksum=checksum(SIGNALS, []))
    exports.write(manifest_name(SIGNALS, "2025-10-12"), none.text().encode())
    first, _open = load(dsn, db, exports, tmp_path, SIGNALS)
    assert (first.action, "has no rows" in first.reason) == ("damaged", True)
    assert asked(dsn, "select count(*) from warehouse.tp_capital_signals") == [(2,)]


def test_what_another_load_has_just_loaded_is_not_loaded_over(
    db: QuestDB, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(db, SIGNALS, signal(MONDAY - timedelta(days=1)), signal(MONDAY))
    exports = exported(db, tmp_path / "exports", SIGNALS)
    upgrade(dsn)
    real, written = loading.verify, list[Any]()

    def overtaken(*about: Any) -> list[str]:
        monkeypatch.setattr(loading, "verify", real)
        load(dsn, db, exports, tmp_path, SIGNALS)
        written.extend(asked(dsn, "select xmin, * from warehouse.tp_capital_signals order by ts"))
        return real(*about)

    monkeypatch.setattr(loading, "verify", overtaken)
    first, last = Loading(dsn, db, exports, tmp_path / "spool", lambda: NOW, [SIGNALS]).run()
    assert (first.action, first.reason) == ("unchanged", "Another load has just loaded it.")
    assert (last.partition, last.action) == ("2025-10-13", "unchanged")
    assert asked(dsn, "select xmin, * from warehouse.tp_capital_signals order by ts") == written


@pytest.mark.parametrize("when", ["before its files are proven", "while they are read"])
def test_an_export_that_another_has_taken_the_place_of_is_no_damaged_one(
    when: str, db: QuestDB, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(db, SIGNALS, signal(MONDAY - timedelta(days=1)), signal(MONDAY))
    exports = exported(db, tmp_path / "exports", SIGNALS)
    upgrade(dsn)
    at, patched = ("verify", loading.verify) if "proven" in when else ("read", loading.read)

    def overtaken(*about: Any) -> Any:
        monkeypatch.setattr(loading, at, patched)
        put(db, SIGNALS, signal(MONDAY - timedelta(days=1, hours=1), "VALEW591"))
        exported(db, tmp_path / "exports", SIGNALS)
        return patched(*about)

    monkeypatch.setattr(loading, at, overtaken)
    first, _open = Loading(dsn, db, exports, tmp_path / "spool", lambda: NOW, [SIGNALS]).run()
    assert (first.action, first.rows) == ("loaded", 2)
    assert asked(dsn, "select count(*) from warehouse.tp_capital_signals") == [(3,)]


def test_a_load_reads_each_manifest_once(
    db: QuestDB, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(db, SIGNALS, *(signal(MONDAY - timedelta(days=back)) for back in range(4)))
    exports = exported(db, tmp_path / "exports", SIGNALS)
    load(dsn, db, exports, tmp_path, SIGNALS)
    read_names, real = list[str](), exports.read

    def watched(name: str) -> bytes:
        read_names.append(name)
        return real(name)

    monkeypatch.setattr(exports, "read", watched)
    assert set(actions(load(dsn, db, exports, tmp_path, SIGNALS)).values()) == {"unchanged"}
    assert read_names == [manifest_name(SIGNALS, name) for name in ("2025-10-10", "2025-10-11", "2025-10-12")]


def test_a_row_of_some_megabytes_comes_back_and_one_that_is_too_long_is_told(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(dsn)
    rows = arrow(SIGNALS, [signal(MONDAY, raw_message="ação\n" * 600_000), signal(MONDAY + timedelta(seconds=1))])
    window = Window(datetime(2025, 10, 13), datetime(2025, 10, 14))
    with warehouse(dsn) as connection:
        replace(connection, SIGNALS, window, 2, [rows])
        back = pa.concat_tables(rows_of(connection, SIGNALS, window))
        assert sorted(map(repr, back.to_pylist())) == sorted(map(repr, rows.to_pylist()))
        monkeypatch.setattr(copying, "_LONG_BLOCK", 1 << 20)
        with pytest.raises(WarehouseError, match="tp_capital_signals cannot be read"):
            list(rows_of(connection, SIGNALS, window))


# Crashes


@pytest.mark.parametrize("step", some(STEPS))
def test_a_load_that_was_killed_at_any_step_is_finished_by_the_next(
    home: Path, db: QuestDB, dsn: str, tmp_path: Path, step: str
) -> None:
    put(db, SIGNALS, *(signal(MONDAY - timedelta(days=back)) for back in range(3)))
    exports = exported(db, home / "exports", SIGNALS)
    code = (
        "from b3_pipeline.settings import Settings; from b3_pipeline.services import engines\n"
        "from b3_pipeline.questdb.client import QuestDB; from b3_pipeline.places import exports_of\n"
        "from b3_pipeline.warehouse.loading import Loading, upgrade\n"
        "settings = Settings()\n"
        "with engines(settings) as servers, QuestDB(servers.questdb) as db:\n"
        "    upgrade(servers.postgres_dsn)\n"
        "    spool = settings.home / 'warehouse'\n"
        "    list(Loading(servers.postgres_dsn, db, exports_of(settings), spool, settings.clock).run())\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "B3_DIE_AT": step}, check=False)
    assert killed.returncode == -9
    counts = "select count(*) from warehouse.tp_capital_signals"
    noted_rows = "select coalesce(sum(rows), 0)::bigint from warehouse.loads"
    assert asked(dsn, counts) == asked(dsn, noted_rows)  # what is there is noted, what is noted is there
    load(dsn, db, exports, tmp_path)
    assert asked(dsn, counts) == asked(dsn, noted_rows) == [(3,)]
    with warehouse(dsn) as connection:
        there = {name: found.checksum for name, found in noted(connection, SIGNALS.name).items()}
    assert {name: m.checksum for name, m in manifests(exports, SIGNALS).items()}.items() <= there.items()


def test_two_loads_at_once_leave_each_partition_once(db: QuestDB, dsn: str, tmp_path: Path) -> None:
    put(db, SIGNALS, *(signal(MONDAY - timedelta(days=back), f"PETRK{back}") for back in range(12)))
    exports = exported(db, tmp_path / "exports", SIGNALS)
    upgrade(dsn)
    failed: list[Exception] = []

    def run() -> None:
        try:
            with QuestDB(db.address) as own:
                list(Loading(dsn, own, exports, tmp_path / "spool", lambda: NOW, [SIGNALS]).run())
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert asked(dsn, "select count(*), count(distinct ts) from warehouse.tp_capital_signals") == [(12, 12)]


@pytest.mark.slow
def test_a_million_rows_load_in_bounded_memory(db: QuestDB, dsn: str, tmp_path: Path) -> None:
    table, step, each = TABLES["b3_dxy_ticks"], 10, 50_000
    upgrade(dsn)
    start = datetime(2025, 9, 1, tzinfo=UTC).replace(tzinfo=None)

    def pieces(count: int) -> Any:
        for number in range(count):
            first = (start - datetime(1970, 1, 1)) // timedelta(microseconds=1) + number * each * step
            yield pa.table(
                {
                    "ts": pa.array(range(first, first + each * step, step), pa.timestamp("us")),
                    "bucket": pa.array(["dxy_09h00"] * each).dictionary_encode(),
                    "value": pa.array([0.25] * each),
                    "status": pa.array(["sucesso"] * each).dictionary_encode(),
                    "provider": pa.array(["Yahoo"] * each).dictionary_encode(),
                    "ingested_at": pa.nulls(each, pa.timestamp("us")),
                    "feed": pa.array(["yahoo_dxy"] * each).dictionary_encode(),
                    "load_id": pa.array([1] * each),
                },
                schema=table.arrow_schema(),
            )

    def peak(count: int) -> int:
        before, most = pa.total_allocated_bytes(), 0
        with warehouse(dsn) as connection, connection.transaction():

            def watched(_rows: int) -> None:
                nonlocal most
                most = max(most, pa.total_allocated_bytes() - before)

            replace(connection, table, Window(start), count * each, pieces(count), watched)
            for piece in rows_of(connection, table, Window(start)):
                watched(piece.num_rows)
        return most

    assert peak(20) < 16 * 2**20  # of some 80 MB that the rows have in all
    assert asked(dsn, "select count(*) from warehouse.b3_dxy_ticks") == [(1_000_000,)]


def test_partitions_of_a_table_without_rows_are_none(db: QuestDB, dsn: str, tmp_path: Path) -> None:
    assert partitions(db, DELETED) == []
    assert load(dsn, db, place(tmp_path / "exports"), tmp_path) == []
