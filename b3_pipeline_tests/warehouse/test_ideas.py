"""Ideas beside the signals that they name and the settlements that were known, whichever schema came first."""

from __future__ import annotations

from datetime import datetime, timedelta

import psycopg
import pytest

from b3_pipeline.lowdb import schema as lowdb
from b3_pipeline.warehouse.loading import upgrade, warehouse
from b3_pipeline_tests.warehouse.filled import SIGNALS, asked, signal
from b3_pipeline_tests.warehouse.test_views import NOON, fill, market

IDEA = "insert into ideas.ideas (id, title, description, category, priority, status, tags, created_at) values "
TEXTS = "%s, %s, %s, 'dashboard', 'low', 'new', %s, %s"


def without_ideas(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("drop schema if exists ideas cascade")


def write(db: psycopg.Connection, number: int, title: str, description: str, *tags: str, at: datetime = NOON) -> None:
    db.execute(f"{IDEA}({TEXTS})".encode(), (number, title, description, list(tags), f"{at.isoformat()}Z"))


@pytest.mark.parametrize("ideas_first", [True, False])
def test_either_schema_may_come_first_and_either_may_go(dsn: str, ideas_first: bool) -> None:
    without_ideas(dsn)
    if ideas_first:
        lowdb.upgrade(dsn)
    upgrade(dsn)
    views = ("idea_signals", "ideas_with_settlement")
    assert [asked(dsn, f"select count(*) from warehouse.{view}") for view in views] == [[(0,)]] * 2
    lowdb.upgrade(dsn)
    with psycopg.connect(dsn, autocommit=True) as db:
        write(db, 1, "Vender", "o dólar")
    assert asked(dsn, "select count(*) from warehouse.ideas_with_settlement") == [(1,)]
    without_ideas(dsn)
    assert asked(dsn, "select count(*) from warehouse.ideas_with_settlement") == [(0,)]


def test_an_idea_meets_the_signals_whose_ticker_it_names_as_a_whole_word(dsn: str) -> None:
    without_ideas(dsn)
    lowdb.upgrade(dsn)
    upgrade(dsn)
    with warehouse(dsn) as wh, wh.transaction(force_rollback=True):
        later = signal(NOON + timedelta(hours=1), "PETR4")
        fill(
            wh,
            SIGNALS,
            signal(NOON - timedelta(hours=1), "PETR4"),
            later,
            signal(NOON, "ITUBX36"),
            signal(NOON, "VALE3"),
        )
        write(wh, 1, "Vender petr4, já", "e depois (ITUBX36)?")
        write(wh, 2, "PETR41", "XPETR4 e PETR 4", "PETR4X")
        write(wh, 3, "Sem ticker", "nada", "VALE3")
        found = wh.execute(
            "select idea_id, asset, ts - created_at, known_then from warehouse.idea_signals order by 1, 2, 3"
        ).fetchall()
    hour = timedelta(hours=1)
    assert found == [
        (1, "ITUBX36", timedelta(), True),
        (1, "PETR4", -hour, True),
        (1, "PETR4", hour, False),
        (3, "VALE3", timedelta(), True),
    ]


def test_an_idea_has_the_settlements_that_were_known_when_it_was_written(dsn: str) -> None:
    without_ideas(dsn)
    lowdb.upgrade(dsn)
    upgrade(dsn)
    with warehouse(dsn) as wh, wh.transaction(force_rollback=True):
        market(wh)
        write(wh, 1, "Dólar", "comprar")
        write(wh, 2, "Antes de tudo", "nada se sabia", at=NOON - timedelta(days=30))
        found = wh.execute(
            "select idea_id, dol_contract, dol_settlement, di1_settlement, ddi_settlement "
            "from warehouse.ideas_with_settlement order by 1"
        ).fetchall()
    assert found == [(1, "X25", 5530.0, 99_160.0, 102_600.0), (2, None, None, None, None)]
