"""Signals as readers see them: those that nobody deleted; and how one is deleted.

A deleted signal stays where it is. What hides it is its tombstone: the signal as it was, under its key, in a table of
its own. So the same signal may come in again without coming back (DESIGN §5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from b3_pipeline.errors import B3Error
from b3_pipeline.loading.locks import holding
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.tables import TABLES

SIGNALS, DELETED = TABLES["tp_capital_signals"], TABLES["tp_capital_signals_deleted"]
ACTIVE = "tp_capital_signals_active"


class NoSuchSignal(B3Error):
    """No signal has that key."""


@dataclass(frozen=True)
class SignalKey:
    """What tells a signal from others; `ts` is naive UTC. The order of `SIGNALS.keys`."""

    ts: datetime
    channel: str
    signal_type: str
    asset: str


@dataclass(frozen=True)
class Deletion:
    """A deleted signal, when it was deleted (naive UTC), and whether that was now."""

    signal: dict[str, Any]
    deleted_at: datetime
    now: bool


def newest(db: QuestDB, limit: int) -> list[dict[str, Any]]:
    """The newest active signals, newest first: a dict by column each, times naive UTC."""
    query = named("select * from {view} order by ts desc, channel, signal_type, asset limit %s", view=ACTIVE)
    columns, rows = db.table(query, limit)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def find(db: QuestDB, key: SignalKey) -> dict[str, Any]:
    """The stored signal of a key, deleted or not. Raises NoSuchSignal."""
    return _found(db, key).to_pylist()[0]


def delete(
    db: QuestDB, key: SignalKey, now: Callable[[], datetime], home: Path, patience_s: float | None = None
) -> Deletion:
    """Puts up a signal's tombstone and returns when readers no longer see the signal; a tombstone that is there stays.

    `patience_s` is how long it waits for whoever else deletes. Raises NoSuchSignal, TableBusy.
    """
    with holding(db, home, DELETED, patience_s):
        if (buried := _stored(db, DELETED.name, DELETED.arrow_schema(), key)).num_rows:
            return _deletion(buried, now=False)
        moment = now().replace(tzinfo=None)
        signal = _found(db, key)
        tombstone = signal.append_column("deleted_at", pa.array([moment], pa.timestamp("us")))
        db.send(DELETED.name, tombstone.select(DELETED.arrow_schema().names))
        db.wait_applied(DELETED.name)
        return _deletion(tombstone, now=True)


def _found(db: QuestDB, key: SignalKey) -> pa.Table:
    signal = _stored(db, SIGNALS.name, SIGNALS.arrow_schema(), key)
    if not signal.num_rows:
        raise NoSuchSignal(
            f"No signal of {key.ts:%Y-%m-%dT%H:%M:%SZ} in {key.channel!r}, {key.signal_type!r}, for {key.asset!r}: "
            "`b3 signals list --json` shows the keys as they are."
        )
    return signal


def _stored(db: QuestDB, table: str, schema: pa.Schema, key: SignalKey) -> pa.Table:
    query = named(
        "select {columns} from {table} where ts = %s and channel = %s and signal_type = %s and asset = %s",
        columns=schema.names,
        table=table,
    )
    return db.arrow(query, *astuple(key), schema=schema)


def _deletion(tombstone: pa.Table, *, now: bool) -> Deletion:
    row = tombstone.to_pylist()[0]
    return Deletion({c.name: row[c.name] for c in SIGNALS.columns}, row["deleted_at"], now)
