"""A load: one payload into one table, every candidate accounted for (FORMATS §3).

Records that repeat within the payload are settled first, so what is then found in the store under this load's own id
can only come from an attempt of it that was interrupted. Revisions are written before the rows that cause them: after
a crash between the two the load goes on under its id and writes the same revision once more, over itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from filelock import FileLock

from b3_pipeline.errors import B3Error
from b3_pipeline.loading.buckets import IN_MEMORY, TimeBuckets
from b3_pipeline.loading.compare import Standing, differing, judge
from b3_pipeline.loading.ledger import Ledger, Load, recognise
from b3_pipeline.loading.payloads import Payload
from b3_pipeline.loading.quarantine import LoadRejects, Quarantine
from b3_pipeline.parsing.csv_rows import read_lines
from b3_pipeline.parsing.records import COLUMN, LINE, TEXT, FileRejected, Reason, Reject, empty_records
from b3_pipeline.questdb.client import QuestDB, as_arrow, named
from b3_pipeline.tables import ADDED_BY_LOAD, TABLES, Table

REVISIONS = TABLES["b3_revisions"]


class LoadError(B3Error):
    """What is stored is not what was given: the load is not finished and says so."""


def quiet(_done: int) -> None:
    """Shows no progress."""


@dataclass(frozen=True)
class Loader:
    """Everything a load needs besides its payload. `progress` is told the bytes of payload read since the last call."""

    db: QuestDB
    home: Path
    clock: Callable[[], datetime]
    run_id: str = ""
    progress: Callable[[int], None] = quiet
    limit: int = IN_MEMORY

    @property
    def quarantine(self) -> Quarantine:
        return Quarantine(self.home / "quarantine")

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.db)

    def load(self, payload: Payload, table: Table, claimed: Collection[int] = ()) -> Report:
        """Loads a payload into a table and returns when its rows show and are counted.

        `claimed` are the loads that other files of the same command are known to be. Raises LoadError when the counts
        do not close, QuestDBError when the server is away (the load then goes on under its own id next time). That
        the table is as contracted is `load_all`'s to ask.
        """
        (self.home / "locks").mkdir(parents=True, exist_ok=True)
        with FileLock(self.home / "locks" / f"{table.name}.lock"):
            earlier = recognise(self.ledger.known(payload.sha256, table.name, payload.kind.feed), payload.name, claimed)
            if earlier is not None and earlier.outcome == "loaded" and self._stands(earlier):
                self.progress(payload.size)
                return Report(earlier, "unchanged")
            return _Attempt(self, payload, table, earlier).run()

    def _stands(self, load: Load) -> bool:
        """Whether the rows and rejects of a load are all there, as far as a count can tell.

        Repeats lead to rows of other loads, so a load with duplicates is read again.
        """
        if load.duplicate or (load.rejected and not self.quarantine.has(load.load_id)):
            return False
        count = named("select count() from {table} where load_id = %s", table=load.table_name)
        return self.db.scalar(count, load.load_id) == load.loaded


@dataclass(frozen=True)
class Report:
    """What came of a load. `outcome` is loaded, unchanged or rejected (the payload as a whole, with the reason)."""

    load: Load
    outcome: str
    reason: str | None = None


@dataclass
class _Attempt:
    loader: Loader
    payload: Payload
    table: Table
    earlier: Load | None
    absent: int = 0
    candidates: int = 0
    loaded: int = 0
    duplicate: int = 0
    written: int = 0
    revising: bool = False
    ignored: tuple[str, ...] = ()  # columns of the source that nothing uses
    own: int = 0  # rows that bear this load's id when it is done
    conflicts: list[pa.Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        now = self.loader.clock().replace(tzinfo=None)
        self.load = (
            replace(self.earlier, run_id=self.loader.run_id)
            if self.earlier
            else Load(
                now,
                self.loader.ledger.new_id(),
                self.loader.run_id,
                self.table.name,
                self.payload.kind.feed,
                self.payload.name,
                self.payload.sha256,
                bytes=self.payload.size,
            )
        )
        self.db = self.loader.db

    def run(self) -> Report:
        started = time.monotonic()
        load = self.load
        rejects = self.loader.quarantine.open(load.load_id, load.table_name, load.feed, load.file, load.sha256)
        try:
            self._read_and_write(rejects)
        except FileRejected as error:
            rejects.drop()
            return self._reject_whole(str(error))
        except BaseException:
            rejects.drop()
            raise
        return self._finish(rejects, time.monotonic() - started)

    def _read_and_write(self, rejects: LoadRejects) -> None:
        with TimeBuckets(empty_records(self.table).schema, self.loader.home / "spool", self.loader.limit) as buckets:
            self._parse(buckets, rejects)
            for pieces in buckets.buckets():
                self._settle(pieces)
        self._add_conflicts(rejects)

    def _parse(self, buckets: TimeBuckets, rejects: LoadRejects) -> None:
        with self.payload.open(self.loader.progress) as stream:
            parsing = self.payload.kind.parse(stream, self.table)
            self.ignored = parsing.ignored
            for chunk in parsing.chunks:
                if not self.candidates:
                    self._announce()
                self.candidates += chunk.candidates
                self.absent += chunk.absent
                rejects.add(chunk.rejects)
                buckets.add(chunk.records)
            while stream.read(1 << 20):  # to the end, where the stream proves that it was the payload
                pass

    def _announce(self) -> None:
        """A new load is in the ledger before its first row is: so a crash leaves no row of an unknown load."""
        if self.earlier is None:
            self.loader.ledger.write(self.load)

    def _settle(self, pieces: Iterator[pa.Table]) -> None:
        standing = Standing(self.table, empty_records(self.table))
        for piece in pieces:
            standing.add(piece)
        self.duplicate += standing.duplicate
        self.conflicts += standing.conflicts
        records = standing.records.sort_by("ts")
        for part, stored in self._with_stored(records):
            verdict = judge(self.table, part, stored, self.load.load_id)
            self._write_revisions(part.filter(pa.array(verdict.revised)), verdict.old)
            self._write(part.filter(pa.array(verdict.write)))
            self.own += int(verdict.own.sum())
            self.loaded += int(verdict.loaded.sum())
            self.duplicate += int((~verdict.loaded).sum())

    def _with_stored(self, records: pa.Table) -> Iterator[tuple[pa.Table, pa.Table]]:
        """The records, sorted by ts, beside what is stored of their feed in the same stretch of time.

        A stretch that holds more stored rows than we care to fetch is halved, between two moments.
        """
        if not records.num_rows:
            return
        moments = records.column("ts").to_numpy()
        bounds = (moments[0].item(), moments[-1].item(), self.load.feed)
        stretch = "from {table} where ts between %s and %s and feed = %s"
        count = self.db.scalar(named("select count() " + stretch, table=self.table.name), *bounds)
        middle = int(np.searchsorted(moments, moments[len(moments) // 2]))
        if count > self.loader.limit and moments[0] != moments[-1]:
            middle = middle or int(np.searchsorted(moments, moments[0], side="right"))
            yield from self._with_stored(records.slice(0, middle))
            yield from self._with_stored(records.slice(middle))
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
        now = np.datetime64(self.loader.clock().replace(tzinfo=None), "us")
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
                    f"{self.payload.name}: a record for {self.table.name} has no {key}; nothing of it was sent."
                )
        self.db.send(self.table.name, rows)
        self.written += n

    def _write_revisions(self, new: pa.Table, old: pa.Table) -> None:
        if not new.num_rows:
            return
        keys = [k for k in self.table.keys if k in new.column_names]
        row_keys = [
            "|".join([*(str(_text(value)) for value in row), self.load.feed])
            for row in zip(*(new.column(k).to_pylist() for k in keys), strict=True)
        ]
        values = [c for c in self.table.values if c.name in new.column_names]
        changes = [
            (
                self.load.ts,
                self.table.name,
                row_keys[i],
                column,
                _text(old.column(column)[i].as_py()),
                _text(new.column(column)[i].as_py()),
                self.load.load_id,
            )
            for column, unlike in differing(new, old, values).items()
            for i in np.flatnonzero(unlike)
        ]
        self.revising = True
        self.db.send(REVISIONS.name, as_arrow(changes, REVISIONS.arrow_schema()))

    def _add_conflicts(self, rejects: LoadRejects) -> None:
        """Puts conflicting repeats into quarantine. A CSV record leads to its text by its line, read again for it."""
        if not self.conflicts:
            return
        conflicts = pa.concat_tables(self.conflicts).sort_by(LINE)
        lines = np.unique(conflicts.column(LINE).drop_null().to_numpy())
        texts: dict[int, str] = {}
        if len(lines):
            with self.payload.open() as stream:
                texts = read_lines(stream, lines)
        for row in conflicts.select([LINE, COLUMN, TEXT]).to_pylist():
            text = row[TEXT] if row[LINE] is None else texts[row[LINE]]
            rejects.add([Reject(row[LINE], row[COLUMN], text, Reason.CONFLICTING_DUPLICATE, record=row[COLUMN])])

    def _reject_whole(self, reason: str) -> Report:
        load = replace(self.load, outcome="rejected")
        if self.earlier is None:
            self.loader.ledger.write(load)
        kept = self.loader.quarantine.keep_file(self.payload.path, self.payload.sha256)
        return Report(load, "rejected", f"{reason.rstrip('.')}. A copy is kept as {kept.name} in the quarantine.")

    def _finish(self, rejects: LoadRejects, seconds: float) -> Report:
        load, table = self.load, self.table
        if self.candidates != self.loaded + rejects.count + self.duplicate + self.absent:
            raise LoadError(
                f"{load.file} → {table.name}: {self.candidates} candidates, but {self.loaded} loaded, {rejects.count} "
                f"rejected, {self.duplicate} duplicate and {self.absent} absent. This is a defect: please report it."
            )
        if self.earlier is not None and self.earlier.outcome == "loaded" and not self.written:
            rejects.keep()
            return Report(self.earlier, "unchanged")
        revised = self._prove()
        rejects.keep()
        done = replace(
            load,
            candidates=self.candidates,
            loaded=self.loaded,
            rejected=rejects.count,
            duplicate=self.duplicate,
            absent=self.absent,
            revised=revised,
            seconds=round(seconds, 3),
            outcome="loaded",
        )
        self.loader.ledger.write(done)
        reason = f"columns that nothing uses: {', '.join(self.ignored)}" if self.ignored else None
        return Report(done, "loaded", reason)

    def _prove(self) -> int:
        """Waits until the rows show, counts them by key, and returns how many loaded records replaced another value."""
        self.db.wait_applied(self.table.name)
        count = named("select count() from {table} where load_id = %s", table=self.table.name)
        shown = self.db.scalar(count, self.load.load_id)
        if shown != self.own:
            raise LoadError(
                f"{self.load.file} → {self.table.name}: {self.own} rows should bear this load's id, {shown} do. "
                "Run the command again; if it stays so, see `b3 doctor` and QuestDB's log."
            )
        if not self.revising and self.earlier is None:
            return 0
        self.db.wait_applied(REVISIONS.name)
        return self.db.scalar("select count_distinct(row_key) from b3_revisions where load_id = %s", self.load.load_id)


def _text(value: object) -> str | None:
    """A value as the ledger of revisions writes it: ISO 8601 for times, the shortest exact form for numbers."""
    if value is None:
        return None
    return value.isoformat() if hasattr(value, "isoformat") else str(value)  # pyright: ignore[reportAttributeAccessIssue]
