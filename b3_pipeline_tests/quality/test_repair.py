"""A repair that dies at any point loses nothing, and the next one finishes it."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as parquet
import pytest

from b3_pipeline.quality.rebuilding import Rebuilding
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline_tests.quality.conftest import Desk

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
