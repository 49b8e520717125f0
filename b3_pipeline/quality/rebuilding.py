"""Rebuilding one partition of a table beside it, so that rows can be taken out of a database that cannot delete.

The good rows are copied into a staging table and counted there; only then the partition is dropped and filled from it.
Whatever point this dies at, every good row is in the table, in the staging table, or in both: a staging table that is
found is put back (keys that are absent, nothing else) and dropped. The load lock of the table is held meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from psycopg import sql
from pyarrow import parquet

from b3_pipeline.durable import sync
from b3_pipeline.errors import B3Error
from b3_pipeline.loading.compare import any_of, differing
from b3_pipeline.loading.locks import holding
from b3_pipeline.quality.finding import Context
from b3_pipeline.quality.parity import common_ids, compare, parity
from b3_pipeline.quality.sources import feeds_of
from b3_pipeline.quality.stored import (
    Condition,
    condition,
    count,
    during,
    feeds_stored,
    of_feed,
    partition_of,
    partition_window,
    stretches,
)
from b3_pipeline.questdb.client import named
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.tables import Table

#: Where rows that were taken out are kept.
REMOVED_FOLDER = "repaired"


class NotRebuilt(B3Error):
    """A partition could not be rebuilt; no row is lost."""


@dataclass(frozen=True)
class Rebuilding:
    """Rebuilds partitions of one table."""

    context: Context
    table: Table

    def put_back(self) -> Iterator[dict[str, Any]]:
        """Finishes what interrupted rebuilds have left."""
        with holding(self.context.db, self.context.home, self.table):
            for staging in self._stagings():
                self.context.db.wait_applied(staging.name)
                rows = self._put_back(staging)
                self.context.db.wait_applied(self.table.name)
                if rows and self._put_back(staging):
                    raise NotRebuilt(f"Rows of {staging.name} do not show in {self.table.name}; run it again.")
                self._drop(staging)
                yield {
                    "table": self.table.name,
                    "action": "put back",
                    "rows": rows,
                    "reason": "a repair was interrupted",
                }

    def rebuild(self, partition: str, removable: Callable[[], set[int]]) -> dict[str, Any]:
        """Takes out of a partition of QuestDB's what no source has and one of some loads is said to have brought.

        `removable` gives these loads; it is asked under the lock, for a load may have begun since they were first
        looked at. Rows without a key are taken out too, and of a key that is there twice one row stays. The newest
        partition is left as it is. Raises NotRebuilt when two rows of a key differ and no source has it, or when
        somebody else writes.
        """
        about = {"table": self.table.name, "partition": partition}
        with holding(self.context.db, self.context.home, self.table):
            if partition == self._newest():
                reason = "the newest partition is never rebuilt: run this again when rows of a later one have come"
                return {**about, "action": "left", "reason": reason}
            window = partition_window(self.table, partition)
            staging = self._staging()
            try:
                copy = self._copy(partition, window, removable(), staging)
            except BaseException:
                self._drop(staging)
                raise
            if not copy.removed:
                self._drop(staging)
                reason = "nothing can be taken out of it now: run this again when loads that are under way have ended"
                return {**about, "action": "left", "reason": reason}
            self._swap(partition, window, copy, staging)
        file = copy.removed_file.name
        return {**about, "action": "rebuilt", "rows": copy.kept, "removed": copy.removed, "removed_rows_file": file}

    def _copy(self, partition: str, window: Window, loads: set[int], staging: Table) -> _Copy:
        """Fills the staging table; nothing else is touched yet."""
        self.context.db.execute(_ddl(named("CREATE TABLE {s} (LIKE {t})", s=staging.name, t=self.table.name)))
        folder = self.context.home / REMOVED_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self.table.name}-{partition}-{time.time_ns()}.parquet"
        copy = _Copy(self.context, self.table, staging, file, loads)
        try:
            self._fill(copy, window)
            copy.close()
            self.context.db.wait_applied(staging.name)
            self._expect(staging, window, copy.kept, "the copy")
            self._expect(self.table, window, copy.kept + copy.removed, "the partition")
        except BaseException:
            file.unlink(missing_ok=True)  # nothing of what is in it was taken out
            raise
        return copy

    def _fill(self, copy: _Copy, window: Window) -> None:
        known = feeds_of(self.table)
        for feed in feeds_stored(self.context.db, self.table, window):
            rows = of_feed(feed)
            if feed in known:
                parity(self.context, self.table, feed, window, lambda w, extra, rows=rows: copy.add(rows, w, extra))
            else:
                copy.add(rows, window, None)
        copy.add(condition("{feed} is null", feed="feed"), window, None)

    def _swap(self, partition: str, window: Window, copy: _Copy, staging: Table) -> None:
        db = self.context.db
        drop = named("ALTER TABLE {t} DROP PARTITION LIST ", t=self.table.name) + sql.Literal(partition)
        db.execute(_ddl(drop))
        db.wait_applied(self.table.name)
        self._expect(self.table, window, 0, "the dropped partition")
        columns = [c.name for c in self.table.columns]
        insert = named(
            "INSERT INTO {t} ({columns}) SELECT {columns} FROM {s}",
            t=self.table.name,
            columns=columns,
            s=staging.name,
        )
        db.execute(_ddl(insert))
        db.wait_applied(self.table.name)
        self._expect(self.table, window, copy.kept, "the rebuilt partition")
        self._drop(staging)

    def _newest(self) -> str:
        newest = self.context.db.scalar(named("select max({ts}) from {t}", ts=self.table.timestamp, t=self.table.name))
        return partition_of(self.table, newest)

    def _expect(self, table: Table, window: Window, rows: int, what: str) -> None:
        found = count(self.context.db, table, during(table, window))
        if found != rows:
            raise NotRebuilt(
                f"{self.table.name}: {what} has {found} rows, not {rows}. Somebody else may be writing; no row is lost: "
                "run `b3 validate --repair` again."
            )

    def _staging(self) -> Table:
        """A table for a partition's good rows: the same columns and keys, and a name that was never used.

        Over a connection that knew a dropped table of the same name QuestDB would take rows and store none.
        """
        return replace(self.table, name=f"{self._prefix}{time.time_ns()}")

    @property
    def _prefix(self) -> str:
        return f"{self.table.name}__rebuild_"

    def _stagings(self) -> list[Table]:
        names = [name for (name,) in self.context.db.query("select table_name from tables()")]
        return [replace(self.table, name=name) for name in sorted(names) if name.startswith(self._prefix)]

    def _drop(self, staging: Table) -> None:
        self.context.db.execute(_ddl(named("DROP TABLE IF EXISTS {s}", s=staging.name)))

    def _put_back(self, staging: Table) -> int:
        """Writes the staged rows whose keys the table does not have; returns how many."""
        rows = 0
        for feed in feeds_stored(self.context.db, staging, ALWAYS):
            for absent in self._absent_rows(staging, feed):
                self.context.db.send(self.table.name, absent, self.table.timestamp)
                rows += absent.num_rows
        return rows

    def _absent_rows(self, staging: Table, feed: str) -> Iterator[pa.Table]:
        for stretch, staged in stretches(self.context.db, staging, self.context.limit, ALWAYS, of_feed(feed)):
            if staged:
                rows, there = (whole_rows(self.context, t, of_feed(feed), stretch) for t in (staging, self.table))
                absent = compare(self.table, rows, there).missing
                if len(absent):
                    yield rows.take(absent)


@dataclass
class _Copy:
    """What goes into the staging table, and what is taken out and kept as a file."""

    context: Context
    table: Table
    staging: Table
    removed_file: Path
    loads: set[int]
    kept: int = 0
    removed: int = 0
    _writer: parquet.ParquetWriter | None = None

    def add(self, where: Condition, window: Window, extra: pa.Table | None) -> None:
        """Copies the rows of a feed in a window: those with keys that are extra not, and of each key one.

        `extra` are the rows that no source has; None: nothing is known of any.
        """
        context, table = self.context, self.table
        for stretch, found in stretches(context.db, table, context.limit, window, where):
            if found:
                rows = whole_rows(context, table, where, stretch)
                stays = _staying(table, rows, self._bad(rows, extra), rows if extra is None else extra)
                self._keep(rows.filter(pa.array(stays)))
                self._take_out(rows.filter(pa.array(~stays)))

    def close(self) -> None:
        """The file of removed rows is complete, and on the disk."""
        if self._writer is not None:
            self._writer.close()
            for path in (self.removed_file, self.removed_file.parent):
                sync(path)

    def _bad(self, rows: pa.Table, extra: pa.Table | None) -> pa.Table:
        if extra is None:
            return rows.slice(0, 0)
        return extra.filter(pa.array(np.isin(extra.column("load_id").fill_null(0).to_numpy(), [*self.loads])))

    def _keep(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self.context.db.send(self.staging.name, rows, self.table.timestamp)
        self.kept += rows.num_rows

    def _take_out(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self._writer = self._writer or parquet.ParquetWriter(self.removed_file, rows.schema)
            self._writer.write_table(rows)
        self.removed += rows.num_rows


def whole_rows(context: Context, table: Table, which: Condition, window: Window) -> pa.Table:
    """The rows that meet a condition in a window, with all columns."""
    where = during(table, window) & which
    query = named("select {columns} from {t} where ", columns=[c.name for c in table.columns], t=table.name)
    return context.db.arrow(query + where.text, *where.values, schema=table.arrow_schema())


def _staying(table: Table, rows: pa.Table, bad: pa.Table, unsourced: pa.Table) -> np.ndarray:
    """Which rows stay: the first of each key that is given and not among the bad ones (rows of one feed).

    Raises NotRebuilt where others of its key differ from it and no source could put it right.
    """
    ids, others = np.split(common_ids(table, rows, bad, unsourced), [rows.num_rows])
    given = ~any_of((rows.column(key).is_null().to_numpy() for key in table.keys), rows.num_rows)
    places = np.flatnonzero(given & ~np.isin(ids, others[: bad.num_rows]))
    _distinct, first, which = np.unique(ids[places], return_index=True, return_inverse=True)
    doubtful = np.isin(ids[places], others[bad.num_rows :])
    later, earlier = places[doubtful], places[first][which][doubtful]
    if any_of(differing(rows.take(later), rows.take(earlier), table.values).values(), len(later)).any():
        raise NotRebuilt(
            f"{table.name}: two rows of one key differ, and no source at hand says which is right. Nothing was touched: "
            "give the source with --legacy DIR and run `b3 validate --repair` again."
        )
    stays = np.zeros(rows.num_rows, bool)
    stays[places[first]] = True
    return stays


def _ddl(statement: sql.Composed) -> str:
    return statement.as_string()
