"""The accounting identity, asked of the ledger, the quarantine and the tables themselves (FORMATS §3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from b3_pipeline.quality.finding import Context, located
from b3_pipeline.quality.stored import Condition, condition, count, during
from b3_pipeline.questdb.client import named
from b3_pipeline.sessions import Window
from b3_pipeline.tables import MARKET_TABLES, TABLES, Table

LOADS = TABLES["b3_loads"]
#: A load that has not come to its end by then belongs to a process that died: five million records take a minute.
STARTED_LONG_AGO = timedelta(hours=1)
_SHOWN = (
    "ts",
    "load_id",
    "table_name",
    "feed",
    "file",
    "sha256",
    "candidates",
    "loaded",
    "rejected",
    "duplicate",
    "absent",
)


@dataclass(frozen=True)
class Fault:
    """A load whose account does not close: its row in the ledger, and why."""

    load: dict[str, Any]
    why: str

    def row(self) -> dict[str, Any]:
        return {"problem": self.why, **located(LOADS, self.load)}


def finished(window: Window) -> Condition:
    """The loads of a window that came to their end."""
    return during(LOADS, window) & condition("outcome = 'loaded'")


def abandoned(context: Context) -> int:
    """How many loads have been at it for long: their process is gone, and the next load of the file goes on with them."""
    since = (context.now - STARTED_LONG_AGO).replace(tzinfo=None)
    return count(context.db, LOADS, condition("outcome = 'started' and ts < %s", since))


def unclosed(context: Context, window: Window) -> Iterator[Fault]:
    """Loads whose candidates are not the sum of the four other counts."""
    where = finished(window) & condition("candidates != loaded + rejected + duplicate + absent")
    for load in _loads(context, where):
        yield Fault(load, "candidates are not loaded + rejected + duplicate + absent")


def misquarantined(context: Context, window: Window) -> Iterator[Fault]:
    """Loads that counted other rejects than their file in the quarantine has."""
    for load in _loads(context, finished(window) & condition("rejected > 0")):
        kept = _lines(context, load["load_id"])
        if kept != load["rejected"]:
            yield Fault(load, f"{load['rejected']} rejected, {kept} in the quarantine")


def _loads(context: Context, where: Condition) -> Iterator[dict[str, Any]]:
    query = named("select {columns} from b3_loads where ", columns=_SHOWN)
    for row in context.db.query(query + where.text + named(" order by ts, load_id"), *where.values):
        yield dict(zip(_SHOWN, row, strict=True))


def _lines(context: Context, load_id: int) -> int:
    path = context.home / "quarantine" / f"{load_id}.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as lines:
        return sum(1 for _line in lines)


def misstored(context: Context, window: Window) -> Iterator[Fault]:
    """Loads that more rows bear the id of than they loaded, or fewer than later revisions explain."""
    for table in MARKET_TABLES:
        stored = dict(context.db.query(named("select load_id, count() from {t} group by load_id", t=table.name)))
        revising = _revising(context, table)
        for load in _loads(context, finished(window) & condition("table_name = %s", table.name)):
            gone = load["loaded"] - stored.get(load["load_id"], 0)
            revised = sum(rows for later, rows in revising.items() if later > load["load_id"])
            if gone < 0 or (gone > revised and not context.expired.get(table.name)):
                rows = stored.get(load["load_id"], 0)
                yield Fault(load, f"{load['loaded']} loaded, {rows} rows bear its id, {revised} were revised since")


def _revising(context: Context, table: Table) -> dict[int, int]:
    """How many rows of a table each load revised."""
    query = "select load_id, count_distinct(row_key) from b3_revisions where table_name = %s group by load_id"
    return dict(context.db.query(query, table.name))


def unknown_loads(context: Context) -> Iterator[tuple[Table, int, datetime, int]]:
    """(table, load, first moment, rows) of rows whose load the ledger does not know."""
    for table in MARKET_TABLES:
        query = named(
            "select r.load_id, r.first, r.n from (select load_id, min({ts}) first, count() n from {t} group by load_id) r "
            "left join (select load_id, table_name from b3_loads where table_name = %s) l on (load_id) "
            "where l.table_name is null order by r.first",
            ts=table.timestamp,
            t=table.name,
        )
        for load_id, first, rows in context.db.query(query, table.name):
            yield table, load_id, first, rows
