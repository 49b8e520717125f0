"""Rows of any table, made up: distinct keys, every type with nulls and awkward values among them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.tables import Column, Table

AT = datetime(2025, 10, 14, 15, tzinfo=UTC)
TEXTS = ("ação", "", None, 'a "b", c\n\t', "x" * 40, "1", "é€😀", "NaN")


def made(table: Table, start: datetime, rows: int, step: timedelta = timedelta(minutes=7), salt: int = 0) -> pa.Table:
    """So many rows from a moment (naive UTC) on, a step apart; another `salt` gives the same keys other values."""
    columns = [_column(table, column, start, rows, step, salt) for column in table.columns]
    return pa.table(columns, schema=table.arrow_schema())


def _column(table: Table, column: Column, start: datetime, rows: int, step: timedelta, salt: int) -> Any:
    n = np.arange(rows)
    kind = table.arrow_schema().field(column.name).type
    if column.name == table.timestamp:
        return pa.array([start + i * step for i in range(rows)], kind)
    if column.name in table.keys:
        return pa.array([int(i) for i in n] if column.type == "LONG" else [f"k{i % 3}" for i in n]).cast(kind)
    shifted = (n + salt) % 7
    values: dict[str, list[Any]] = {
        "DOUBLE": [None if i == 3 else float(i) / 3 + salt for i in shifted],
        "LONG": [None if i == 2 else int(i) * 10**12 for i in shifted],
        "DATE": [None if i == 5 else start.date() + timedelta(days=int(i)) for i in shifted],
        "TIMESTAMP": [None if i == 6 else start + timedelta(microseconds=int(i)) for i in shifted],
        "SYMBOL": [None if i == 4 else f"s{i}" for i in shifted],
        "VARCHAR": [TEXTS[(i + salt) % len(TEXTS)] for i in range(rows)],
    }
    given = values[column.type]
    return pa.array(given, pa.string()).cast(kind) if column.type == "SYMBOL" else pa.array(given, kind)


def store(db: QuestDB, table: Table, rows: pa.Table) -> None:
    """Writes rows; returns when they show."""
    db.send(table.name, rows, table.timestamp)
    db.wait_applied(table.name)
