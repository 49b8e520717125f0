"""What tests of retention share: an empty log, and short forms of what tables hold and what came of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pyarrow as pa

from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import ALWAYS
from b3_pipeline.tables import Table
from b3_pipeline.warehouse.exporting import Item
from b3_pipeline.warehouse.exports import partitions, rows_of
from b3_pipeline.warehouse.retention_log import RetentionLog, Rule, open_retention_log

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)


@contextmanager
def empty_log(dsn: str) -> Iterator[RetentionLog]:
    """An empty retention log, and none is left for others."""
    forget(dsn)
    with open_retention_log(dsn) as opened:
        yield opened
    forget(dsn)


def forget(dsn: str) -> None:
    """Takes the retention log away."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop table if exists b3.retention_log, b3.retention_holds, b3.retention_rules")


def done(items: Iterable[Item]) -> dict[str, str]:
    """Partition → action, with what it was kept for."""
    return {item.name: f"{item.action}: {item.why}" if item.action == "kept" else item.action for item in items}


def names(db: QuestDB, table: Table) -> list[str]:
    return [partition.name for partition in partitions(db, table)]


def on(log: RetentionLog, *tables: Table) -> None:
    for table in tables:
        log.set_rule(Rule(table.name, True, NOW, "a test", "to try it"))


def content(db: QuestDB, table: Table) -> list[dict[str, Any]]:
    """All rows, without when and by which load they were written, in the order of their keys."""
    rows = pa.concat_tables([table.arrow_schema().empty_table(), *rows_of(db, table, ALWAYS)]).to_pylist()
    plain = [{k: v for k, v in row.items() if k not in ("ingested_at", "load_id")} for row in rows]
    return sorted(plain, key=lambda row: tuple(str(row[key]) for key in table.keys))
