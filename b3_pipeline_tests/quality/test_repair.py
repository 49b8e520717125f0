"""A repair that dies at any point loses nothing, and the next one finishes it."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as parquet
import pytest

from b3_pipeline.quality.rebuilding import Rebuilding
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline_tests.quality.conftest import ADJUSTMENTS, Desk

EXTRA = (
    "insert into b3_adjustments (ts, instrument, contract_month, price_settlement, status, feed, load_id) values "
    "('2025-02-03T12:00:00Z', 'DI1', 'H25', 98000.0, 'x', 'legacy_csv', 7)"
)


class Died(BaseException):
    """The process is gone."""


def rows(db: QuestDB) -> list[tuple[Any, ...]]:
    return db.query("select * from b3_adjustments where load_id != 7 order by ts, instrument")


def stagings(db: QuestDB) -> list[str]:
    return [name for (name,) in db.query("select table_name from tables()") if "__rebuild" in name]


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_whatever_point_a_rebuild_dies_at_the_next_repair_ends_with_the_same_rows(
    settled: Desk, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows(settled.db)
    settled.sql(EXTRA, "b3_adjustments")
    calls = 0

    def die_at_step(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == step:
            raise Died

    def die() -> None:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(Rebuilding, "_expect", die_at_step)
        patched.setattr(Rebuilding, "_drop", lambda *_: die())
        with pytest.raises(Died):
            settled.repair()
    assert stagings(settled.db)
    actions = settled.repair()
    assert actions[0]["action"] == "put back"
    assert rows(settled.db) == before
    assert not settled.red("b3_adjustments")
    assert not stagings(settled.db)


def test_rows_of_other_feeds_in_a_rebuilt_partition_stay_as_they_are(settled: Desk) -> None:
    settled.sql(EXTRA, "b3_adjustments")
    settled.sql(EXTRA.replace("legacy_csv", "composed"), "b3_adjustments")
    [action] = [a for a in settled.repair() if a["action"] == "rebuilt"]
    assert action["removed"] == 1
    assert settled.db.query("select feed from b3_adjustments where load_id = 7") == [("composed",)]


def test_rows_that_were_taken_out_are_kept_as_a_file(settled: Desk) -> None:
    settled.sql(EXTRA, "b3_adjustments")
    [action] = settled.repair()
    [row] = parquet.read_table(settled.home / "repaired" / action["removed_rows_file"]).to_pylist()
    assert (row["instrument"], row["price_settlement"], row["load_id"]) == ("DI1", 98000.0, 7)


def test_a_copy_that_does_not_hold_what_it_should_leaves_the_partition_alone(
    settled: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled.sql(EXTRA, "b3_adjustments")
    send = QuestDB.send

    def lose_one(db: QuestDB, table: str, given: Any, timestamp: str = "ts") -> None:
        send(db, table, given.slice(1), timestamp)

    with monkeypatch.context() as patched:
        patched.setattr(QuestDB, "send", lose_one)
        [action] = settled.repair()
    assert (action["action"], "no row is lost" in action["reason"]) == ("left", True)
    assert settled.db.scalar("select count() from b3_adjustments") == 583


def test_a_repair_of_what_is_right_does_nothing(settled: Desk) -> None:
    assert settled.repair() == []


@pytest.mark.parametrize("outcome", ["partial", "started"])
def test_rows_of_a_load_that_has_not_finished_are_never_taken_out(settled: Desk, outcome: str) -> None:
    settled.sql(f"update b3_loads set outcome = '{outcome}', loaded = 500", "b3_loads")
    file = settled.folder / ADJUSTMENTS
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[0], *lines[100:]]))  # rotated: the older lines are gone
    actions = settled.repair()
    assert [a["action"] for a in actions] == ["refused"]
    assert "that load has not finished: run it again" in actions[0]["reason"]
    assert settled.db.scalar("select count() from b3_adjustments") == 582


def test_a_load_that_begins_before_the_partition_is_locked_keeps_its_rows(
    settled: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled.sql(EXTRA, "b3_adjustments")
    locked = Rebuilding._newest

    def begin(rebuilding: Rebuilding) -> str:
        settled.sql(
            "insert into b3_loads (ts, load_id, table_name, feed, file, sha256, outcome) values "
            "('2025-10-14T12:00:00Z', 7, 'b3_adjustments', 'legacy_csv', 'other.csv', 'x', 'started')",
            "b3_loads",
        )
        return locked(rebuilding)

    monkeypatch.setattr(Rebuilding, "_newest", begin)
    [action] = settled.repair()
    assert (action["action"], "under way" in action["reason"]) == ("left", True)
    assert settled.db.scalar("select count() from b3_adjustments") == 583
    assert not stagings(settled.db)


def test_a_kept_document_of_a_newer_load_stands_against_an_older_file(captured: Desk) -> None:
    newest = captured.folder / "ultimo_dado.json"
    older = newest.read_text()
    newest.write_text(older.replace("99121.69", "99121.70").replace("99.121,69", "99.121,70"))
    captured.load()
    newest.write_text(older)
    assert not captured.red("b3_snapshots", "b3_captures")
    assert captured.repair() == []
    price = "select price_settlement from b3_snapshots where instrument = 'DI1' and ts in '2025-10-13'"
    assert captured.db.query(price) == [(99121.70,)]
    captured.sql("update b3_captures set payload = '{}' where ts in '2025-10-13'", "b3_captures")
    captured.repair()
    assert captured.db.query(price) == [(99121.70,)]


def test_rows_without_a_feed_or_a_key_are_taken_out_and_kept_as_a_file(settled: Desk) -> None:
    settled.sql(EXTRA.replace("'legacy_csv'", "null"), "b3_adjustments")
    settled.sql(EXTRA.replace("'H25'", "null").replace("'legacy_csv'", "'composed'"), "b3_adjustments")
    assert {table for table, _check, _found in settled.red("b3_adjustments")} == {"b3_adjustments", "b3_loads"}
    [action] = settled.repair()
    assert (action["action"], action["partition"], action["removed"]) == ("rebuilt", "2025-02", 2)
    kept = parquet.read_table(settled.home / "repaired" / action["removed_rows_file"]).to_pylist()
    assert sorted((row["feed"] or "", row["contract_month"] or "") for row in kept) == [("", "H25"), ("composed", "")]
    assert not settled.red("b3_adjustments")


def test_two_rows_of_a_key_that_differ_are_left_where_no_source_says_which_is_right(settled: Desk) -> None:
    keys = "upsert keys(ts, instrument, contract_month, feed)"
    settled.sql("alter table b3_adjustments dedup disable", "b3_adjustments")
    for price in ("98000.0", "98001.0"):
        row = EXTRA.replace("legacy_csv", "composed").replace("98000.0", price)
        settled.sql(row, "b3_adjustments")
    settled.sql(f"alter table b3_adjustments dedup enable {keys}", "b3_adjustments")
    [action, *_] = settled.repair()
    assert (action["action"], action["partition"]) == ("left", "2025-02")
    assert "two rows of one key differ" in action["reason"]
    assert settled.db.scalar("select count() from b3_adjustments") == 584
    assert not list((settled.home / "repaired").glob("*"))


def test_two_repairs_at_one_time_of_the_clock_keep_two_files_of_removed_rows(settled: Desk) -> None:
    for _time in range(2):
        settled.sql(EXTRA, "b3_adjustments")
        settled.repair()
    assert len(list((settled.home / "repaired").glob("*.parquet"))) == 2
