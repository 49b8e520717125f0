"""The last signals for the page, asked of a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from b3_pipeline.places import place
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.warehouse.known import NotKnown, last_signals
from b3_pipeline.warehouse.loading import upgrade
from b3_pipeline_tests.warehouse.filled import NOW, SIGNALS, load, put, signal

NOON = datetime(2025, 10, 13, 15)


def test_the_newest_up_to_a_moment_come_first(db: QuestDB, dsn: str, tmp_path: Path) -> None:
    put(db, SIGNALS, *(signal(NOON + timedelta(minutes=n), f"PETR{n}") for n in range(5)))
    load(dsn, db, place(tmp_path / "exports"), tmp_path, SIGNALS)
    until = (NOON + timedelta(minutes=3)).replace(tzinfo=UTC)
    found = last_signals(dsn, until, 2)
    assert found is not None
    assert [row["asset"] for row in found] == ["PETR3", "PETR2"]
    assert found[0]["ts"] == until


def test_without_a_warehouse_there_are_none_and_in_an_empty_one_no_signals(dsn: str) -> None:
    assert last_signals(dsn, NOW, 10) is None
    upgrade(dsn)
    assert last_signals(dsn, NOW, 10) == []


def test_a_server_that_is_away_is_told() -> None:
    with pytest.raises(NotKnown, match="PostgreSQL does not answer"):
        last_signals("postgresql://b3:secret@127.0.0.1:1/b3", NOW, 10)
