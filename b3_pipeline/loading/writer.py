"""The writer: one load's records into one table, judged against what is stored, contract-checked, acknowledged, counted.

Revisions are written before the rows that cause them: after a crash between the two the load goes on under its id and
writes the same revision once more, over itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date, datetime, timedelta
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from psycopg import sql

from b3_pipeline.errors import B3Error
from b3_pipeline.loading.compare import any_of, differing, is_ascending, judge, pc, pick
from b3_pipeline.loading.ledger import Load
from b3_pipeline.loading.taken import NOTHING, Taken, TakenUnreadable
from b3_pipeline.parsing.records import ORIGIN
from b3_pipeline.questdb.client import MANY_ROWS, QuestDB, as_arrow, named
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.tables import ADDED_BY_LOAD, TABLES, Column, Table

REVISIONS = TABLES["b3_revisions"]
#: Values bound to one query; PostgreSQL's protocol allows 65 535.
_BOUND_AT_ONCE = 500
#: Tables of rows on their way to the server at once. Two keep it busy while one of them is still being encoded.
_THREADS = 2


class LoadError(B3Error):
    """What is stored is not what was given: the load is not finished and says so."""


class Writer:
    """Writes a load's records as they come; what it counts is FORMATS §3's table for keys that the load meets once.

    Use in a `with` block: at its end all is acknowledged.
    """

    def __init__(
        self,
        db: QuestDB,
        table: Table,
        load: Load,
        clock: Callable[[], datetime],
        limit: int,
        announce: Callable[[], None],
        window: Window = ALWAYS,
        taken: Taken = NOTHING,
    ) -> None:
        self.db, self.table, self.load, self.clock, self.limit = db, table, load, clock, limit
        self.announce, self.window, self.taken = announce, window, taken
        self.loaded = self.duplicate = 0
        self.outside = 0  # records that are still to be written, but not within this window
        self.written = 0  # rows sent now
        self.own = 0  # rows that bear this load's id when it is done
        self.late: list[pa.Table] = []  # origins of what is new of a time that a retention has taken away
        self.unreadable: list[str] = []  # why nothing could be said about records of such a time
        self._gone: Sequence[Window] | None = None
        self._revising = False
        self._sending = _Sending(db)
        names = {c.name for c in table.parsed}
        self._keys = [k for k in table.keys if k in names]
        self._values = [c for c in table.values if c.name in names]

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._sending.wait()
        finally:
            self._sending.close()

    def settle(self, records: pa.Table) -> pa.Table:
        """Writes what is new or other than stored. Returns the origin of the records that may not be written.

        The records' keys are distinct. What may not be written has another value than a later load stored, which this
        load, going on under its old id, must not take back.
        """
        refused = [ORIGIN.empty_table()]
        records = self._settle_taken(_in_time(records, self.table.timestamp))
        for part, stored in self._beside_stored(records):
            verdict = judge(self.table, part, stored, self.load.load_id)
            inside = self.window.mask(part.column(self.table.timestamp).to_numpy())
            write, own = verdict.write & inside, verdict.own | (verdict.write & inside)
            contested = pick(part, verdict.contested)
            ours = self._were_ours(contested)
            refused.append(pick(contested, ~ours).select(ORIGIN.names))
            self.outside += int((verdict.write & ~own & ~inside).sum())
            self.own += int(own.sum())
            self.loaded += int(own.sum() + ours.sum())
            self.duplicate += int((~own & ~verdict.write & ~verdict.contested).sum())
            if write.any():
                self.announce()
            self._write_revisions(pick(part, verdict.revised & inside), pick(verdict.old, inside[verdict.revised]))
            self._write(pick(part, write))
        return pa.concat_tables(refused)

    def _settle_taken(self, records: pa.Table) -> pa.Table:
        """Settles the records of times that a retention has taken away; returns the others. Nothing of it is written.

        What was exported is as good as stored; what was not, or otherwise, is `late`. Where the export cannot be read
        now the records are left open, as those outside the window.
        """
        moments = records.column(self.table.timestamp).to_numpy()
        windows = self._windows_since(moments[0].item()) if len(moments) else ()
        gone = any_of((window.mask(moments) for window in windows), len(moments))
        if not gone.any():
            return records
        days = moments.astype("datetime64[D]")
        for day in np.unique(days[gone]):
            part = pick(records, gone & (days == day))
            try:
                exported = self.taken.rows(self.table, day.astype("datetime64[us]").item())
            except TakenUnreadable as error:
                self.unreadable.append(str(error))
                self.outside += part.num_rows
            else:
                self._judge_taken(part, exported)
        return pick(records, ~gone)

    def _windows_since(self, oldest: datetime) -> Sequence[Window]:
        """The windows that were taken away, if any record can be of one: nothing younger than the limit ever is."""
        days = self.table.retention_days
        if days is None or oldest >= self.clock().replace(tzinfo=None) - timedelta(days=days):
            return ()
        if self._gone is None:
            self._gone = self.taken.windows(self.table)
        return self._gone

    def _judge_taken(self, records: pa.Table, exported: pa.Table) -> None:
        if self.table.has_feed:
            exported = exported.filter(pc.equal(exported.column("feed").cast(pa.string()), self.load.feed))
        verdict = judge(self.table, records, exported, self.load.load_id)
        ours = verdict.own & ~verdict.contested
        ours[verdict.contested] = self._were_ours(pick(records, verdict.contested))
        late = (verdict.write | verdict.contested) & ~ours
        self.loaded += int(ours.sum())
        self.duplicate += int((~ours & ~late).sum())
        self.late.append(pick(records, late).select(ORIGIN.names))

    def prove(self) -> int:
        """Waits until the rows show and counts them. Returns how many more bear this load's id than its records say.

        There can be more only when an earlier attempt read the payload otherwise. Raises LoadError when there are less.
        Rows that do not name their load cannot be counted: the caller has to compare them.
        """
        self.db.wait_applied(self.table.name)
        if not self.table.has_feed:
            return 0
        count = named("select count() from {table} where load_id = %s", table=self.table.name)
        shown = self.db.scalar(count, self.load.load_id)
        if shown < self.own:
            self.db.close()  # a connection that still writes to a dropped table of this name would do so again
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
        bounds = (moments[0].item(), moments[-1].item(), *([self.load.feed] if self.table.has_feed else []))
        stretch = "from {table} where {ts} between %s and %s" + (" and feed = %s" if self.table.has_feed else "")
        names = {"table": self.table.name, "ts": self.table.timestamp}
        count = self.db.scalar(named("select count() " + stretch, **names), *bounds)
        if count > self.limit and moments[0] != moments[-1]:
            middle = int(np.searchsorted(moments, moments[len(moments) // 2]))
            middle = middle or int(np.searchsorted(moments, moments[0], side="right"))
            yield from self._beside_stored(records.slice(0, middle))
            yield from self._beside_stored(records.slice(middle))
            return
        wanted = tuple(c for c in self.table.columns if c.name not in ("ingested_at", "feed"))
        schema = self.table.arrow_schema(wanted)
        if not count:
            yield records, schema.empty_table()
            return
        select = named("select {columns} " + stretch, columns=schema.names, **names)
        yield records, self.db.arrow(select, *bounds, schema=schema)

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
        self._sending.send(self.table.name, rows, self.table.timestamp)
        self.written += n

    def _row_keys(self, records: pa.Table) -> list[str]:
        """Each record's key as the ledger of revisions writes it, `2025-10-13T12:00:32|DI1|X25|legacy_csv`."""
        columns = (records.column(k).to_pylist() for k in self._keys)
        feed = [self.load.feed] if self.table.has_feed else []
        return ["|".join([*(str(_text(value)) for value in row), *feed]) for row in zip(*columns, strict=True)]

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
        if keys:
            self.db.wait_applied(REVISIONS.name)
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


class _Sending:
    """Sends many rows in the background, while the next ones are made ready: each thread over a client of its own.

    No more tables are on their way than there are threads, so memory stays bounded. What cannot be sent is raised by
    the next call.
    """

    def __init__(self, db: QuestDB) -> None:
        self.db = db
        self._threads: ThreadPoolExecutor | None = None
        self._under_way: deque[Future[None]] = deque()

    def send(self, table: str, rows: pa.Table, timestamp: str) -> None:
        """Sends rows: few of them before it returns."""
        if rows.num_rows < MANY_ROWS:
            self.db.send(table, rows, timestamp)
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS)
        if len(self._under_way) == _THREADS:
            self._under_way.popleft().result()
        self._under_way.append(self._threads.submit(self._send, table, rows, timestamp))

    def _send(self, table: str, rows: pa.Table, timestamp: str) -> None:
        with QuestDB(self.db.address) as db:
            db.send(table, rows, timestamp)

    def wait(self) -> None:
        """Returns when all is acknowledged."""
        while self._under_way:
            self._under_way.popleft().result()

    def close(self) -> None:
        """Returns when nothing goes on in the background any more, whatever became of it."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)


def _in_time(records: pa.Table, timestamp: str) -> pa.Table:
    """The records in time's order."""
    in_order = is_ascending(records.column(timestamp).to_numpy())
    return records if in_order else records.sort_by(timestamp)


def _pair(old: pa.Table, new: pa.Table, column: str, row: int) -> tuple[str | None, str | None]:
    return _text(old.column(column)[row].as_py()), _text(new.column(column)[row].as_py())


def _text(value: object) -> str | None:
    """A value as the ledger of revisions writes it: ISO 8601 for times, the shortest exact form for numbers."""
    if value is None:
        return None
    return value.isoformat() if isinstance(value, date) else str(value)
