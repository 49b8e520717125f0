"""The accounting identity, asked of the ledger, the quarantine and the tables themselves (FORMATS §3)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from b3_pipeline.loading.payloads import Payload
from b3_pipeline.quality.finding import Context, located
from b3_pipeline.quality.parity import parity
from b3_pipeline.quality.sources import kinds_of
from b3_pipeline.quality.stored import Condition, condition, count, during, one_of
from b3_pipeline.questdb.client import named
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.tables import MARKET_TABLES, TABLES, TP_TABLES, Table

LOADS = TABLES["b3_loads"]
#: A load that has not come to its end by then belongs to a process that died: five million records take a minute.
STARTED_LONG_AGO = timedelta(hours=1)
#: Outcomes of loads that may go on under their ids: at it, died in it, or sessions of theirs are still to be loaded.
UNFINISHED = ("started", "partial")
_BLOCK = 1 << 20
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
        return {"problem": self.why, **located(LOADS, {name: self.load[name] for name in _SHOWN})}


def accounted(window: Window) -> Condition:
    """The loads of a window whose counts say what is stored: those that came to the end of what they were to load."""
    return during(LOADS, window) & one_of("outcome", ["loaded", "partial"])


def abandoned(context: Context) -> int:
    """How many loads have been at it for long: their process is gone, and the next load of the file goes on with them."""
    since = (context.now - STARTED_LONG_AGO).replace(tzinfo=None)
    return count(context.db, LOADS, condition("outcome = 'started' and ts < %s", since))


def unclosed(context: Context, window: Window) -> Iterator[Fault]:
    """Loads whose candidates are not the sum of the four other counts."""
    where = accounted(window) & condition("candidates != loaded + rejected + duplicate + absent")
    for load in _loads(context, where):
        yield Fault(load, "candidates are not loaded + rejected + duplicate + absent")


def misquarantined(context: Context, window: Window) -> Iterator[Fault]:
    """Loads that counted other rejects than their file in the quarantine has."""
    for load in _loads(context, accounted(window) & condition("rejected > 0")):
        kept = _lines(context, load["load_id"])
        if kept != load["rejected"]:
            yield Fault(load, f"{load['rejected']} rejected, {kept} in the quarantine")


def _loads(context: Context, where: Condition) -> Iterator[dict[str, Any]]:
    columns = (*_SHOWN, "bytes", "outcome")
    query = named("select {columns} from b3_loads where ", columns=columns)
    for row in context.db.query(query + where.text + named(" order by ts, load_id"), *where.values):
        yield dict(zip(columns, row, strict=True))


def _lines(context: Context, load_id: int) -> int:
    path = context.home / "quarantine" / f"{load_id}.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as lines:
        return sum(1 for _line in lines)


def misstored(context: Context, window: Window) -> Iterator[Fault]:
    """Loads that more rows bear the id of than they loaded, or fewer than can be explained.

    Explained are rows that later loads revised, that a retention took away, or that another load has brought back. A
    load that is `partial` may be going on at this moment, and then has more rows than it has accounted for.
    """
    for table in MARKET_TABLES:
        # In this order, for a load may end meanwhile: it accounts after its rows, and revises before it writes.
        loads = list(_loads(context, accounted(window) & condition("table_name = %s", table.name)))
        stored = dict(context.db.query(named("select load_id, count() from {t} group by load_id", t=table.name)))
        revising = _revising(context, table)
        brought_back, expired = _BroughtBack(context, table), context.expired_rows.get(table.name, {})
        for load in loads:
            rows = stored.get(load["load_id"], 0)
            gone = load["loaded"] - rows - expired.get(load["load_id"], 0)
            revised = sum(n for later, n in revising.items() if later > load["load_id"])
            short = gone > revised and not brought_back(load)
            if (gone < 0 and load["outcome"] == "loaded") or short:
                yield Fault(load, f"{load['loaded']} loaded, {rows} rows bear its id, {revised} were revised since")


class _BroughtBack:
    """Whether the keys of a load are all stored, whatever load their rows name by now.

    That is known where its payload is the beginning of a file at hand, for files grow, and parity misses nothing of it:
    rows that were lost and came back bear the id of the load of the grown file.
    """

    def __init__(self, context: Context, table: Table) -> None:
        self.context, self.table = context, table
        self._complete: dict[str, bool] = {}

    def __call__(self, load: dict[str, Any]) -> bool:
        kinds = kinds_of(self.table, load["feed"])
        files = (p for f in self.context.files if f.kind in kinds and (p := f.loadable))
        return any(_begins_with(file, load) for file in files) and self._is_complete(load["feed"])

    def _is_complete(self, feed: str) -> bool:
        if feed not in self._complete:
            found = parity(self.context, self.table, feed)
            self._complete[feed] = not (found.missing or found.unreadable)
        return self._complete[feed]


def _begins_with(file: Payload, load: dict[str, Any]) -> bool:
    """Whether a file has grown from the payload of a load. The payload itself, still at hand, is loaded again instead."""
    left, digest = load["bytes"], hashlib.sha256()
    if file.size <= left:
        return False
    with file.raw() as stream:
        while left and (block := stream.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest() == load["sha256"]


def _revising(context: Context, table: Table) -> dict[int, int]:
    """How many rows of a table each load revised."""
    context.db.wait_applied("b3_revisions")
    query = "select load_id, count_distinct(row_key) from b3_revisions where table_name = %s group by load_id"
    return dict(context.db.query(query, table.name))


def lost(context: Context) -> Iterator[tuple[Table, int, int]]:
    """(table, loaded, rows) of tables whose rows name no load, and that have fewer rows than one of their loads brought.

    Rows that a retention has taken away count as there.
    More cannot be said: of two loads one may have brought back what was lost of the other.
    """
    for table in TP_TABLES:
        query = "select max(loaded) from b3_loads where table_name = %s and outcome = 'loaded'"
        loaded = context.db.scalar(query, table.name) or 0
        rows = count(context.db, table, during(table, ALWAYS)) + sum(context.expired_rows.get(table.name, {}).values())
        if rows < loaded:
            yield table, loaded, rows


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
