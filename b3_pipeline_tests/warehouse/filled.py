"""Tables with rows for the tests of the warehouse: signals as TP-Capital sends them, and a small market around them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa

from b3_pipeline.places import Place, place
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.tables import TABLES, Table
from b3_pipeline.warehouse.exports import export_partition, partitions
from b3_pipeline.warehouse.loading import Loading, Outcome, upgrade
from b3_pipeline.warehouse.model import WAREHOUSE_TABLES

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
SIGNALS, DELETED = TABLES["tp_capital_signals"], TABLES["tp_capital_signals_deleted"]
#: What no message should bring and any might: quotes, separators, breaks, and the end of data in some forms of COPY.
AWKWARD = 'TIPO "Day Trade"\tATIVO;x,y\r\n\\.\n\\N\\x41 ção'


def empty(dsn: str) -> None:
    """Takes the warehouse away."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("drop schema if exists warehouse cascade")


def arrow(table: Table, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows of a table; what they do not name is null."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=table.arrow_schema())


def put(db: QuestDB, table: Table, *rows: Mapping[str, Any]) -> None:
    """Rows in QuestDB, where they show."""
    db.send(table.name, arrow(table, rows), table.timestamp)
    db.wait_applied(table.name)


def signal(ts: datetime, asset: str = "PETRK340", **more: Any) -> dict[str, Any]:
    return {
        "ts": ts,
        "channel": "TP CAPITAL | OPCOES",
        "signal_type": "Day Trade",
        "asset": asset,
        "buy_min": 0.62,
        "raw_message": f"ATIVO {asset}",
        "source": "ingestion",
        "ingested_at": ts + timedelta(seconds=1),
        **more,
    }


def ninety_days(last: date) -> list[dict[str, Any]]:
    """Some signals for each of ninety days up to `last`."""
    chance, assets = random.Random(7), ("PETRK340", "BEEFW655", "BBASL25", "ITUBX36", "WINZ25", "VALE3")
    signals = []
    for back in range(90):
        day = datetime.combine(last - timedelta(days=back), datetime.min.time())
        for second in sorted(chance.sample(range(40_000, 70_000), chance.randint(1, 6))):
            price = round(chance.uniform(0.1, 90), 2)
            more = {"buy_min": price, "stop": None if second % 3 else price / 3, "raw_message": AWKWARD}
            signals.append(signal(day + timedelta(seconds=second), chance.choice(assets), **more))
    return signals


def exported(db: QuestDB, folder: Path, *tables: Table) -> Place:
    """A place with an export of every closed partition."""
    there = place(folder)
    for table in tables or WAREHOUSE_TABLES:
        for partition in partitions(db, table):
            if not partition.newest:
                export_partition(db, table, partition, there, NOW)
    return there


def load(dsn: str, db: QuestDB, exports: Place, folder: Path, *tables: Table) -> list[Outcome]:
    """Brings the warehouse up to date."""
    upgrade(dsn)
    return list(Loading(dsn, db, exports, folder / "spool", lambda: NOW, tables or WAREHOUSE_TABLES).run())


def asked(dsn: str, query: Any, *values: object) -> list[tuple[Any, ...]]:
    """What PostgreSQL answers."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("set timezone to 'UTC'")
        return db.execute(query, values or None).fetchall()
