"""The writer: one load's records into one table, judged against what is stored, contract-checked, acknowledged, counted.

Revisions are written before the rows that cause them: after a crash between the two the load goes on under its id and
writes the same revision once more, over itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from psycopg import sql

from b3_pipeline.errors import B3Error
from b3_pipeline.loading.compare import differing, judge
from b3_pipeline.loading.ledger import Load
from b3_pipeline.parsing.records import ORIGIN
from b3_pipeline.questdb.client import QuestDB, as_arrow, named
from b3_pipeline.tables import ADDED_BY_LOAD, TABLES, Column, Table

REVISIONS = TABLES["b3_revisions"]
#: Values bound to one query; PostgreSQL's protocol allows 65 535.
_BOUND_AT_ONCE = 500


class LoadError(B3Error):
    """What is stored is not what was given: the load is not finished and says so."""


class Writer:
    """Writes a load's records as they come; what it counts is FORMATS §3's table for keys that the load meets once."""

    def __init__(self, db: QuestDB, table: Table, load: Load, clock: Callable[[], datetime], limit: int) -> None:
        self.db, self.table, self.load, self.clock, self.limit = db, table, load, clock, limit
        self.loaded = self.duplicate = 0
        self.written = 0  # rows sent now
        self.own = 0  # rows that bear this load's id when it is done
        self._revising = False
        names = {c.name for c in table.parsed}
        self._keys = [k for k in table.keys if k in names]
        self._values = [c for c in table.values if c.name in names]

    def settle(self, records: pa.Table) -> pa.Table:
        """Writes what is new or other than stored. Returns the origin of the records that may not be written.

        The records' keys are distinct. What may not be written has another value than a later load stored, which this
        load, going on under its old id, must not take back.
        """
        refused = [ORIGIN.empty_table()]
        for part, stored in self._beside_stored(records.sort_by(self.table.timestamp)):
            verdict = judge(self.table, part, stored, self.load.load_id)
            self._write_revisions(part.filter(pa.array(verdict.revised)), verdict.old)
            self._write(part.filter(pa.array(verdict.write)))
            contested = part.filter(pa.array(verdict.contested))
            ours = self._were_ours(contested)
            refused.append(contested.filter(pa.array(~ours)).select(ORIGIN.names))
            self.own += int(verdict.own.sum())
            self.loaded += int(verdict.own.sum() + ours.sum())
            self.duplicate += int((~verdict.own & ~verdict.contested).sum())
        return pa.concat_tables(refused)

    def prove(self) -> int:
        """Waits until the rows show and counts them. Returns how many more bear this load's id than its records say.

        There can be more only when an earlier attempt read the payload otherwise. Raises LoadError when there are less.
        """
        self.db.wait_applied(self.table.name)
        count = named("select count() from {table} where load_id = %s", table=self.table.name)
        shown = self.db.scalar(count, self.load.load_id)
        if shown < self.own:
            raise LoadError(
                f"{self.load.file} → {self.table.name}: {self.own} rows should bear this load's id, {shown} do. "
                "Run the command again; if it stays so, look into QuestDB's log."
            )
        return shown - self.own

    def revised(self, *, resumed: bool) -> int:
        """How many of the load's records replaced another value, those of earlier attempts included."""
        if not (self._revising or resumed):
            return 0
        self.db.wait_applied(REVISIONS.name)
        count = "select count_distinct(row_key) from b3_revisions where load_id = %s and table_name = %s"
        return self.db.scalar(count, self.load.load_id, self.table.name)

    def _beside_stored(self, records: pa.Table) -> Iterator[tuple[pa.Table, pa.Table]]:
        """The records, sorted by ts, beside what is stored of their feed in the same stretch of time.

        A stretch that holds more stored rows than we care to fetch is halved, between two moments.
        """
        if not records.num_rows:
            return
        moments = records.column(self.table.timestamp).to_numpy()
        bounds = (moments[0].item(), moments[-1].item(), self.load.feed)
        stretch = "from {table} where ts between %s and %s and feed = %s"
        count = self.db.scalar(named("select count() " + stretch, table=self.table.name), *bounds)
        if count > self.limit and moments[0] != moments[-1]:
            middle = int(np.searchsorted(moments, moments[len(moments) // 2]))
            middle = middle or int(np.searchsorted(moments, moments[0], side="right"))
            yield from self._beside_stored(records.slice(0, middle))
            yield from self._beside_stored(records.slice(middle))
            return
        wanted = tuple(c for c in self.table.columns if c.name not in ("ingested_at", "feed"))
        rows = []
        if count:
            names = [c.name for c in wanted]
            rows = self.db.query(named("select {columns} " + stretch, columns=names, table=self.table.name), *bounds)
        yield records, as_arrow(rows, self.table.arrow_schema(wanted))

    def _write(self, records: pa.Table) -> None:
        """Adds what every load adds, checks the contract, and sends."""
        if not records.num_rows:
            return
        n = records.num_rows
        now = np.datetime64(self.clock().replace(tzinfo=None), "us")
        added = {
            "ingested_at": pa.array(np.full(n, now)),
            "feed": pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), pa.array([self.load.feed])),
            "load_id": pa.array(np.full(n, self.load.load_id)),
        }
        columns = [added[c.name] if c.name in ADDED_BY_LOAD else records.column(c.name) for c in self.table.columns]
        rows = pa.table(columns, schema=self.table.arrow_schema())
        for key in self.table.keys:
            if rows.column(key).null_count:
                raise LoadError(
                    f"{self.load.file}: a record for {self.table.name} has no {key}; nothing of it was sent."
                )
        self.db.send(self.table.name, rows)
        self.written += n

    def _row_keys(self, records: pa.Table) -> list[str]:
        """Each record's key as the ledger of revisions writes it, `2025-10-13T12:00:32|DI1|X25|legacy_csv`."""
        columns = (records.column(k).to_pylist() for k in self._keys)
        return ["|".join([*(str(_text(value)) for value in row), self.load.feed]) for row in zip(*columns, strict=True)]

    def _write_revisions(self, new: pa.Table, old: pa.Table) -> None:
        if not new.num_rows:
            return
        keys = self._row_keys(new)
        changes = [
            (self.load.ts, self.table.name, keys[i], column, *_pair(old, new, column, i), self.load.load_id)
            for column, unlike in differing(new, old, self._values).items()
            for i in np.flatnonzero(unlike).tolist()
        ]
        self._revising = True
        self.db.send(REVISIONS.name, as_arrow(changes, REVISIONS.arrow_schema()))

    def _were_ours(self, contested: pa.Table) -> np.ndarray:
        """Which records a later load found stored with our value and revised: the ledger of revisions has them."""
        keys = self._row_keys(contested)
        found: set[tuple[str, str, str | None]] = set()
        for start in range(0, len(keys), _BOUND_AT_ONCE):
            some = keys[start : start + _BOUND_AT_ONCE]
            query = sql.SQL(
                "select row_key, column_name, old_value from b3_revisions "
                "where table_name = %s and load_id > %s and row_key in ({})"
            ).format(sql.SQL(", ").join([sql.Placeholder()] * len(some)))
            found |= set(self.db.query(query, self.table.name, self.load.load_id, *some))
        return np.array([self._is_in(found, keys[i], contested, i, self._values) for i in range(len(keys))], bool)

    @staticmethod
    def _is_in(found: set[Any], key: str, records: pa.Table, row: int, values: Sequence[Column]) -> bool:
        return any((key, c.name, _text(records.column(c.name)[row].as_py())) in found for c in values)


def _pair(old: pa.Table, new: pa.Table, column: str, row: int) -> tuple[str | None, str | None]:
    return _text(old.column(column)[row].as_py()), _text(new.column(column)[row].as_py())


def _text(value: object) -> str | None:
    """A value as the ledger of revisions writes it: ISO 8601 for times, the shortest exact form for numbers."""
    if value is None:
        return None
    return value.isoformat() if isinstance(value, date) else str(value)
