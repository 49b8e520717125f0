"""Exports: what is in the files is what is in the table, whoever reads them, and it says so when it is not."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest

from b3_pipeline.places import Place, place
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import Window
from b3_pipeline.tables import TABLES, Table
from b3_pipeline.warehouse import exports
from b3_pipeline.warehouse.exports import (
    ExportError,
    Manifest,
    checksum,
    export_partition,
    manifests,
    partitions,
    read,
    rows_of,
    sound_and_damaged,
    verify,
)
from b3_pipeline_tests.conftest import REPO
from b3_pipeline_tests.warehouse.made_rows import AT, made, store

TICKS, SIGNALS, CAPTURES = (TABLES[name] for name in ("b3_dxy_ticks", "tp_capital_signals", "b3_captures"))
SEPTEMBER = datetime(2025, 9, 3, 12)


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return place(tmp_path / "exports")


def export(db: QuestDB, table: Table, here: Place, **more: object) -> list[Manifest]:
    """Exports every closed partition."""
    closed = [p for p in partitions(db, table) if not p.newest]
    return [export_partition(db, table, p, here, AT, **more) for p in closed]  # pyright: ignore[reportArgumentType]


def stored(db: QuestDB, table: Table, window: Window) -> pa.Table:
    return pa.concat_tables(rows_of(db, table, window)).unify_dictionaries()


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_every_table_comes_out_as_it_is_stored(table: Table, db: QuestDB, here: Place) -> None:
    store(db, table, made(table, SEPTEMBER, 500))
    store(db, table, made(table, SEPTEMBER + timedelta(days=40), 1))
    [first, *_] = done = export(db, table, here)
    assert [m.partition for m in done] == (
        ["2025-09"] if table.partition_by == "MONTH" else ["2025-09-03", "2025-09-04", "2025-09-05"]
    )
    assert [verify(here, m, db) for m in done] == [[]] * len(done)
    back = pa.concat_tables(piece for m in done for piece in read(here, m))
    assert back.schema == table.arrow_schema()
    assert back.to_pylist() == stored(db, table, Window(first.start, done[-1].end)).to_pylist()
    assert sum(m.rows for m in done) == 500


def test_the_open_partition_is_no_closed_one(db: QuestDB) -> None:
    store(db, TICKS, made(TICKS, SEPTEMBER, 3, timedelta(days=30)))
    assert [(p.name, p.rows, p.newest) for p in partitions(db, TICKS)] == [
        ("2025-09", 1, False),
        ("2025-10", 1, False),
        ("2025-11", 1, True),
    ]


def test_duckdb_and_pandas_read_the_dataset_as_the_table_is(db: QuestDB, here: Place) -> None:
    store(db, TICKS, made(TICKS, SEPTEMBER, 2_000))
    store(db, TICKS, made(TICKS, SEPTEMBER + timedelta(days=40), 1))
    [manifest] = export(db, TICKS, here)
    wanted = stored(db, TICKS, manifest.window).to_pandas()
    dataset = f"read_parquet('{here.url}/b3_dxy_ticks/**/*.parquet', hive_partitioning = true)"
    with duckdb.connect() as duck:
        found = duck.execute(f"select * from {dataset} order by ts, bucket").df()
        counted = (
            "select day, count(*) from dataset where year = 2025 and month = 9 and day < 5 group by day order by day"
        )
        assert duck.execute(counted.replace("dataset", dataset)).fetchall() == [(3, 103), (4, 206)]
    frame = pd.DataFrame(pd.read_parquet(f"{here.url}/b3_dxy_ticks")).sort_values(["ts", "bucket"], ignore_index=True)
    for given in (found, frame):
        assert (given["day"].astype(int) == given["ts"].dt.day).all()
        assert given["ts"].dt.tz is None
        plain = pd.DataFrame(given[list(wanted.columns)]).astype(wanted.dtypes.to_dict())
        pd.testing.assert_frame_equal(plain, wanted.sort_values(["ts", "bucket"], ignore_index=True))


def test_the_reads_that_the_document_shows_work(
    db: QuestDB, here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for table in (TICKS, TABLES["b3_adjustments"]):
        store(db, table, made(table, SEPTEMBER, 30))
        store(db, table, made(table, SEPTEMBER + timedelta(days=40), 1))
        export(db, table, here)
    monkeypatch.chdir(tmp_path)
    text = (REPO / "docs" / "retention.md").read_text("utf-8")
    given: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if "spark" not in block:  # which is no Python package of ours
            exec(block, given)
    assert (len(given["ticks"]), len(given["frame"])) == (30, 30)
    assert given["ticks"]["local"].iloc[0].isoformat() == "2025-09-03T09:00:00-03:00"


def test_the_same_content_again_changes_nothing(db: QuestDB, here: Place) -> None:
    store(db, TICKS, made(TICKS, SEPTEMBER, 900))
    store(db, TICKS, made(TICKS, SEPTEMBER + timedelta(days=40), 1))
    [first] = export(db, TICKS, here)
    before = {name: here.sha256(name) for name in here.names()}
    assert export(db, TICKS, here) == [first]
    assert export(db, TICKS, here, again=True) == [first]
    assert {name: here.sha256(name) for name in here.names()} == before


def test_other_content_takes_the_place_of_the_old_and_no_old_file_stays(db: QuestDB, here: Place) -> None:
    store(db, TICKS, made(TICKS, SEPTEMBER, 900))
    store(db, TICKS, made(TICKS, SEPTEMBER + timedelta(days=40), 1))
    [first] = export(db, TICKS, here)
    store(db, TICKS, made(TICKS, SEPTEMBER, 50, salt=1))
    assert "has changed since it was exported" in verify(here, first, db)[0]
    [second] = export(db, TICKS, here)
    assert second.checksum != first.checksum
    assert verify(here, second, db) == []
    assert sorted(f.name for f in second.files) == [n for n in here.names() if n.endswith(".parquet")]
    changed = {f.name for f in second.files} - {f.name for f in first.files}
    assert len(changed) == 1  # only the day that has other rows


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_file_is_found(harm: str, db: QuestDB, here: Place) -> None:
    store(db, TICKS, made(TICKS, SEPTEMBER, 900))
    store(db, TICKS, made(TICKS, SEPTEMBER + timedelta(days=40), 1))
    [manifest] = export(db, TICKS, here)
    path = Path(here.url, manifest.files[1].name)
    if harm == "remove":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data) if harm == "flip" else bytes(data[:-1]))
    [problem] = verify(here, manifest)
    assert manifest.files[1].name in problem
    [again] = export(db, TICKS, here, again=True)
    assert (verify(here, again), again) == ([], manifest)


def test_a_flipped_byte_anywhere_in_a_manifest_is_found(db: QuestDB, here: Place) -> None:
    store(db, CAPTURES, made(CAPTURES, SEPTEMBER, 3))
    store(db, CAPTURES, made(CAPTURES, SEPTEMBER + timedelta(days=40), 1))
    [manifest] = export(db, CAPTURES, here)
    name = exports.manifest_name(CAPTURES, manifest.partition)
    text = here.read(name)
    assert Manifest.of_text(text.decode()) == manifest
    for at in range(0, len(text), 11):
        here.write(name, text[:at] + bytes([text[at] ^ 2]) + text[at + 1 :])
        assert manifests(here, CAPTURES) in ({}, {manifest.partition: manifest})  # white space may change
    here.write(name, b"{}")
    assert sound_and_damaged(here, CAPTURES) == ({}, [manifest.partition])
    assert manifests(here, CAPTURES) == {}
    assert export(db, CAPTURES, here) == [manifest]
    assert manifests(here, CAPTURES) == {manifest.partition: manifest}


def test_what_has_no_manifest_is_not_exported_and_is_cleared_by_the_next_export(db: QuestDB, here: Place) -> None:
    store(db, CAPTURES, made(CAPTURES, SEPTEMBER, 3))
    store(db, CAPTURES, made(CAPTURES, SEPTEMBER + timedelta(days=40), 1))
    stray = "b3_captures/year=2025/month=9/day=3/b3_captures-2025-09-03-0123456789ab.parquet"
    here.write(stray, b"of a dead process")
    assert manifests(here, CAPTURES) == {}
    [manifest] = export(db, CAPTURES, here)
    assert here.names() == sorted([manifest.files[0].name, exports.manifest_name(CAPTURES, manifest.partition)])


def drop_september(db: QuestDB, table: Table) -> None:
    db.execute(f"ALTER TABLE {table.name} DROP PARTITION LIST '2025-09'")
    db.wait_applied(table.name)


@pytest.mark.parametrize("again", [False, True])
def test_the_export_of_rows_that_are_gone_stays_as_it_was(again: bool, db: QuestDB, here: Place) -> None:
    store(db, TICKS, made(TICKS, SEPTEMBER, 900))
    store(db, TICKS, made(TICKS, SEPTEMBER + timedelta(days=40), 1))
    listed = partitions(db, TICKS)[0]
    [manifest] = export(db, TICKS, here)
    before = here.names()
    drop_september(db, TICKS)
    with pytest.raises(ExportError, match="has no rows any more"):
        export_partition(db, TICKS, listed, here, AT, again=again)
    assert (manifests(here, TICKS), here.names()) == ({"2025-09": manifest}, before)
    assert verify(here, manifest) == []
    assert "no export is of none" in verify(here, replace(manifest, rows=0, files=()))[0]


def test_fewer_rows_than_before_are_exported_as_they_are(db: QuestDB, here: Place) -> None:
    store(db, TICKS, made(TICKS, SEPTEMBER, 900))
    store(db, TICKS, made(TICKS, SEPTEMBER + timedelta(days=40), 1))
    export(db, TICKS, here)
    drop_september(db, TICKS)
    store(db, TICKS, made(TICKS, SEPTEMBER, 300))
    [manifest] = export(db, TICKS, here)
    assert (manifest.rows, verify(here, manifest, db)) == (300, [])


@pytest.fixture
def read_back(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tables of which an export has read all rows of a partition to compare them."""
    compared, real = list[str](), exports.stored_checksum

    def summed(db: QuestDB, table: Table, *more: Any) -> Any:
        compared.append(table.name)
        return real(db, table, *more)

    monkeypatch.setattr(exports, "stored_checksum", summed)
    return compared


def test_rows_are_read_again_only_where_the_server_says_that_they_may_have_changed(
    db: QuestDB, here: Place, read_back: list[str]
) -> None:
    rows = made(TICKS, SEPTEMBER, 900)
    store(db, TICKS, rows)
    store(db, TICKS, made(TICKS, SEPTEMBER + timedelta(days=40), 1))
    [first] = export(db, TICKS, here)
    assert (export(db, TICKS, here), read_back) == ([first], [])
    assert (export(db, TICKS, here, thorough=True), read_back) == ([first], [TICKS.name])
    later = pa.array([datetime(2025, 10, 14)] * 900, pa.timestamp("us"))
    store(db, TICKS, rows.set_column(rows.column_names.index("ingested_at"), "ingested_at", later))
    for _time in range(2):  # of the same content it is the same export, and its new state is noted
        assert (export(db, TICKS, here), len(read_back)) == ([first], 2)
    one = rows.slice(17, 1)
    late = pa.array([datetime(2025, 10, 13)], pa.timestamp("us"))  # older than the newest: a clock that was put back
    one = one.set_column(one.column_names.index("value"), "value", pa.array([7.0]))
    store(db, TICKS, one.set_column(one.column_names.index("ingested_at"), "ingested_at", late))
    [other] = export(db, TICKS, here)
    assert (other.checksum != first.checksum, verify(here, other, db)) == (True, [])


def test_what_does_not_say_when_it_was_written_is_compared_each_time(
    db: QuestDB, here: Place, read_back: list[str]
) -> None:
    channels = TABLES["telegram_channels"]
    store(db, channels, made(channels, SEPTEMBER, 3))
    store(db, channels, made(channels, SEPTEMBER + timedelta(days=1), 1))
    [first] = export(db, channels, here)
    assert export(db, channels, here) == [first]
    assert (first.state, read_back) == (None, [channels.name])
    store(db, channels, made(channels, SEPTEMBER, 3, salt=1))
    [other] = export(db, channels, here)
    assert other.checksum != first.checksum


def test_a_change_by_hand_is_found_by_a_full_comparison(db: QuestDB, here: Place) -> None:
    store(db, TICKS, made(TICKS, SEPTEMBER, 50))
    store(db, TICKS, made(TICKS, SEPTEMBER + timedelta(days=40), 1))
    [first] = export(db, TICKS, here)
    db.execute("UPDATE b3_dxy_ticks SET value = 9.5 WHERE ts < '2025-09-03T13'")
    db.wait_applied(TICKS.name)
    assert "has changed since" in verify(here, first, db)[0]
    assert export(db, TICKS, here, thorough=True) != [first]


def test_a_manifest_of_an_older_release_is_read_and_gets_its_state(
    db: QuestDB, here: Place, read_back: list[str]
) -> None:
    store(db, TICKS, made(TICKS, SEPTEMBER, 50))
    store(db, TICKS, made(TICKS, SEPTEMBER + timedelta(days=40), 1))
    [manifest] = export(db, TICKS, here)
    name = exports.manifest_name(TICKS, manifest.partition)
    document = json.loads(here.read(name))
    older = {key: value for key, value in document.items() if key not in ("state", "sha256")}
    digest = hashlib.sha256(json.dumps(older, sort_keys=True).encode()).hexdigest()
    here.write(name, json.dumps(older | {"sha256": digest}).encode())
    assert manifests(here, TICKS)["2025-09"].state is None
    for _time in range(2):
        assert (export(db, TICKS, here), read_back) == ([manifest], [TICKS.name])
    assert manifest.state is not None
    assert manifests(here, TICKS)["2025-09"].state == manifest.state


def test_a_column_that_came_later_is_null_in_what_was_exported_before(db: QuestDB, here: Place) -> None:
    older = replace(TICKS, columns=tuple(c for c in TICKS.columns if c.name != "provider"))
    store(db, TICKS, made(TICKS, SEPTEMBER, 60))
    store(db, TICKS, made(TICKS, SEPTEMBER + timedelta(days=40), 1))
    [manifest] = [export_partition(db, older, p, here, AT) for p in partitions(db, older) if not p.newest]
    assert verify(here, manifest) == []
    assert pa.concat_tables(read(here, manifest)).column("provider").null_count == 60


def test_a_manifest_says_what_it_is_of(db: QuestDB, here: Place) -> None:
    store(db, SIGNALS, made(SIGNALS, SEPTEMBER, 4))
    store(db, SIGNALS, made(SIGNALS, SEPTEMBER + timedelta(days=1), 1))
    [manifest] = export(db, SIGNALS, here)
    document = json.loads(here.read("tp_capital_signals/_manifests/2025-09-03.json"))
    assert (document["table"], document["rows"], document["start"]) == ("tp_capital_signals", 4, "2025-09-03T00:00:00Z")
    assert document["columns"]["buy_min"] == "DOUBLE"
    [file] = manifest.files
    assert (
        file.name
        == f"tp_capital_signals/year=2025/month=9/day=3/tp_capital_signals-2025-09-03-{file.sha256[:12]}.parquet"
    )
    assert (here.sha256(file.name), here.size(file.name)) == (file.sha256, file.bytes)


def test_a_checksum_is_the_same_whatever_the_order_and_the_pieces_and_the_load() -> None:
    rows = made(TICKS, SEPTEMBER, 1_000)
    wanted = checksum(TICKS, [rows])
    shuffled = rows.take(list(range(999, -1, -1)))
    assert checksum(TICKS, [shuffled.slice(0, 300), shuffled.slice(300)]) == wanted
    other_load = rows.set_column(rows.column_names.index("load_id"), "load_id", pa.array([7] * 1_000))
    assert checksum(TICKS, [other_load]) == wanted
    plain = rows.set_column(1, "bucket", rows.column("bucket").cast(pa.string()))
    assert checksum(TICKS, [plain]) == wanted


def test_a_checksum_is_another_for_any_other_content() -> None:
    rows = made(TICKS, SEPTEMBER, 50)
    value = rows.column_names.index("value")
    swapped = rows.column("value").to_pylist()
    swapped[0], swapped[1] = swapped[1], swapped[0]
    status, provider = rows.column("status"), rows.column("provider")
    exchanged = rows.set_column(value + 1, "status", provider).set_column(value + 2, "provider", status)
    later = rows.set_column(0, "ts", pa.array([ts + timedelta(microseconds=1) for ts in rows.column("ts").to_pylist()]))
    found = [
        checksum(TICKS, some)
        for some in (
            [rows],
            [rows.slice(1)],
            [rows, rows.slice(0, 1)],
            [rows.set_column(value, "value", pa.array(swapped, pa.float64()))],
            [made(TICKS, SEPTEMBER, 50, salt=1)],
            [later],
            [exchanged.set_column(value + 1, "status", provider.cast(pa.string()))],
            [],
        )
    ]
    assert len({*found[:6], found[7]}) == 7
