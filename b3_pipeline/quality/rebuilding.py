"""Rebuilding one partition of a table beside it, so that rows can be taken out of a database that cannot delete.

The good rows are copied into a staging table and counted there; only then the partition is dropped and filled from it.
Whatever point this dies at, every good row is in the table, in the staging table, or in both: a staging table that is
found is put back (keys that are absent, nothing else) and dropped. The load lock of the table is held meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock
from psycopg import sql
from pyarrow import parquet

from b3_pipeline.errors import B3Error
from b3_pipeline.quality.finding import Context
from b3_pipeline.quality.parity import common_ids, compare, parity
from b3_pipeline.quality.sources import feeds_of
from b3_pipeline.quality.stored import count, during, feeds_stored, of_feed, partition_of, partition_window, stretches
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
        with self._locked():
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

    def rebuild(self, partition: str, loads: set[int]) -> dict[str, Any]:
        """Takes out of a partition of QuestDB's what no source has and one of these loads is said to have brought.

        Of a key that is there twice one row stays. The newest partition is left as it is.
        """
        about = {"table": self.table.name, "partition": partition}
        with self._locked():
            if partition == self._newest():
                reason = "the newest partition is never rebuilt: run this again when rows of a later one have come"
                return {**about, "action": "left", "reason": reason}
            window = partition_window(self.table, partition)
            staging = self._staging()
            try:
                copy = self._copy(partition, window, loads, staging)
            except BaseException:
                self._drop(staging)
                raise
            self._swap(partition, window, copy, staging)
        kept_as = copy.removed_file.name if copy.removed else ""
        return {**about, "action": "rebuilt", "rows": copy.kept, "removed": copy.removed, "removed_rows_file": kept_as}

    def _copy(self, partition: str, window: Window, loads: set[int], staging: Table) -> _Copy:
        """Fills the staging table; nothing else is touched yet."""
        self.context.db.execute(_ddl(named("CREATE TABLE {s} (LIKE {t})", s=staging.name, t=self.table.name)))
        folder = self.context.home / REMOVED_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self.table.name}-{partition}-{self.context.now:%Y%m%dT%H%M%S}.parquet"
        copy = _Copy(self.context, self.table, staging, file, loads)
        known = feeds_of(self.table)
        try:
            for feed in feeds_stored(self.context.db, self.table, window):
                if feed in known and loads:
                    parity(self.context, self.table, feed, window, lambda w, extra, f=feed: copy.add(f, w, extra))
                else:
                    copy.add(feed, window, None)
        finally:
            copy.close()
        self.context.db.wait_applied(staging.name)
        self._expect(staging, window, copy.kept, "the copy")
        self._expect(self.table, window, copy.kept + copy.removed, "the partition")
        return copy

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

    @contextmanager
    def _locked(self) -> Iterator[None]:
        locks = self.context.home / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{self.table.name}.lock"):
            self.context.db.wait_applied(self.table.name)
            yield

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
                rows = whole_rows(self.context, staging, feed, stretch)
                absent = compare(self.table, rows, whole_rows(self.context, self.table, feed, stretch)).missing
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

    def add(self, feed: str, window: Window, extra: pa.Table | None) -> None:
        """Copies the rows of a feed in a window: those with keys that are extra not, and of each key one."""
        context, table = self.context, self.table
        for stretch, found in stretches(context.db, table, context.limit, window, of_feed(feed)):
            if found:
                rows = whole_rows(context, table, feed, stretch)
                stays = _staying(table, rows, self._bad(rows, extra))
                self._keep(rows.filter(pa.array(stays)))
                self._take_out(rows.filter(pa.array(~stays)))

    def close(self) -> None:
        """The file of removed rows is complete."""
        if self._writer is not None:
            self._writer.close()

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


def whole_rows(context: Context, table: Table, feed: str, window: Window) -> pa.Table:
    """The rows of a feed in a window, with all columns."""
    where = during(table, window) & of_feed(feed)
    query = named("select {columns} from {t} where ", columns=[c.name for c in table.columns], t=table.name)
    return context.db.arrow(query + where.text, *where.values, schema=table.arrow_schema())


def _staying(table: Table, rows: pa.Table, bad: pa.Table) -> np.ndarray:
    """Which rows stay: the first of each key that is not among the bad ones (rows of one feed)."""
    ids = common_ids(table, rows, bad)
    mine = ids[: rows.num_rows]
    first = np.zeros(rows.num_rows, bool)
    first[np.unique(mine, return_index=True)[1]] = True
    return first & ~np.isin(mine, ids[rows.num_rows :])


def _ddl(statement: sql.Composed) -> str:
    return statement.as_string()
