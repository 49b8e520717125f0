"""docs/warehouse.md: every worked query runs and gives rows, and everything that the schema has is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from b3_pipeline.lowdb import schema as lowdb
from b3_pipeline.warehouse.loading import upgrade, warehouse
from b3_pipeline_tests.warehouse.filled import SIGNALS, signal
from b3_pipeline_tests.warehouse.test_views import NOON, fill, market

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "warehouse.md").read_text("utf-8")
QUERIES = re.findall(r"^```sql\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def wh(dsn: str) -> Iterator[psycopg.Connection]:
    upgrade(dsn)
    lowdb.upgrade(dsn)
    with warehouse(dsn) as db, db.transaction(force_rollback=True):
        market(db)
        fill(db, SIGNALS, signal(NOON, "ITUBX36"), signal(NOON + timedelta(minutes=1), "WING26"))
        db.execute(
            "insert into ideas.ideas (title, description, category, priority, status, created_at) "
            "values ('Vender ITUBX36', '', 'dashboard', 'low', 'new', '2025-10-13 15:00Z')"
        )
        load = "'tp_capital_signals', '2025-10-13', '', 2, now(), now(), 'open', now(), now(), 0.1, ''"
        db.execute(f"insert into warehouse.loads values ({load})")
        yield db


@pytest.mark.parametrize("number", range(len(QUERIES)))
def test_a_worked_query_gives_rows(wh: psycopg.Connection, number: int) -> None:
    assert wh.execute(QUERIES[number].encode()).fetchall()


def test_there_are_worked_queries_and_every_table_view_and_function_is_named(wh: psycopg.Connection) -> None:
    assert len(QUERIES) >= 6
    there = wh.execute(
        "select relname from pg_class where relnamespace = 'warehouse'::regnamespace and relkind in ('r', 'v') "
        "union select proname from pg_proc where pronamespace = 'warehouse'::regnamespace"
    ).fetchall()
    inner = {"alembic_version", "local_day", "captured_session"}
    assert {name for (name,) in there} - inner == {name for (name,) in there if f"`{name}" in TEXT} - inner
