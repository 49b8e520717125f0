"""A load: one payload into one table, every candidate accounted for (FORMATS §3).

Records that repeat within the payload are settled first, so what is then found in the store under this load's own id
can only come from an attempt of it that was interrupted.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from b3_pipeline.loading.buckets import IN_MEMORY, TimeBuckets
from b3_pipeline.loading.compare import Standing
from b3_pipeline.loading.ledger import COUNTS, Ledger, Load, recognise
from b3_pipeline.loading.locks import holding
from b3_pipeline.loading.payloads import Payload, PayloadChanged
from b3_pipeline.loading.quarantine import LoadRejects, Quarantine
from b3_pipeline.loading.taken import NOTHING, Taken
from b3_pipeline.loading.writer import LoadError, Writer
from b3_pipeline.parsing.csv_rows import read_lines
from b3_pipeline.parsing.records import COLUMN, LINE, TEXT, FileRejected, Reason, Reject, empty_records
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.tables import TABLES, Table

#: In which no record lies: all are judged, and none is written.
_NEVER = Window(end=ALWAYS.bounds()[0])
#: Refused records whose lines are fetched again in one reading of the file.
_REFUSED_AT_ONCE = 100_000


def quiet(_told: object) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class LoadReport:
    """What came of a payload and a table: the load (None where it failed), and the outcome with its reason.

    `outcome` is loaded, unchanged, partial (records outside the window are still open), rejected (the payload as a
    whole) or failed (neither loaded nor rejected: run again).
    """

    payload: Payload
    load: Load | None
    outcome: str
    reason: str | None = None

    @property
    def counted(self) -> Load:
        """The load of a report that is none of a failure."""
        assert self.load is not None, self.reason
        return self.load


@dataclass(frozen=True)
class Loader:
    """Everything a load needs besides its payload. `progress` is told the bytes of payload read since the last call.

    Records outside `window` are not written, and a load that leaves some of them open is `partial`: it goes on, under
    its own id, with the next window.
    """

    db: QuestDB
    home: Path
    clock: Callable[[], datetime]
    run_id: str = ""
    progress: Callable[[int], None] = quiet
    limit: int = IN_MEMORY
    window: Window = ALWAYS
    patience_s: float | None = None  # how long to wait for whoever else loads into the table; None: as long as it takes
    follow: Callable[[Sequence[LoadReport]], None] = quiet  # told of loads, once they are safe: see `loaders`
    again: bool = False  # read what was loaded before, too, and put right what no longer is as it was
    taken: Taken = NOTHING  # what a retention has taken away

    @property
    def quarantine(self) -> Quarantine:
        return Quarantine(self.home / "quarantine")

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.db)

    def load(self, payload: Payload, table: Table, claimed: Collection[int] = ()) -> LoadReport:
        """Loads a payload into a table and returns when its rows show and are counted.

        `claimed` are the loads that other files of the same command are known to be. Raises LoadError when the counts
        do not close, QuestDBError when the server is away (the load then goes on under its own id next time). That
        the table is as contracted is `load_all`'s to ask.
        """
        with holding(self.db, self.home, table, self.patience_s):
            shutil.rmtree(self.spool(table), ignore_errors=True)  # of a load that was killed
            earlier = self._earlier(payload, table, claimed)
            if earlier is not None and earlier.outcome == "loaded" and not self.again and self._stands(earlier):
                self.progress(payload.size)
                return LoadReport(payload, earlier, "unchanged")
            return _Attempt(self, payload, table, earlier).run()

    def spool(self, table: Table) -> Path:
        """Where loads of a table set records aside."""
        return self.home / "spool" / table.name

    def _earlier(self, payload: Payload, table: Table, claimed: Collection[int]) -> Load | None:
        """The load that this payload is known by. A file that went back to an older content is loaded anew."""
        known = recognise(self.ledger.known(payload.sha256, table.name, payload.kind.feed), payload.name, claimed)
        if known is None or payload.replaces == frozenset():
            return known
        newest = self.ledger.newest(payload.name, table.name, payload.kind.feed)
        if newest is None or newest.load_id <= known.load_id or newest.sha256 == payload.sha256:
            return known
        return None if payload.replaces is None or newest.sha256 in payload.replaces else known

    def _stands(self, load: Load) -> bool:
        """Whether as many rows and rejects of a load are there as it counted, or were taken away by a retention.

        Repeats lead to rows of other loads, which no count shows: a load with duplicates is read again.
        """
        if load.duplicate or (load.rejected and not self.quarantine.has(load.load_id)):
            return False
        if not TABLES[load.table_name].has_feed:
            return False
        count = named("select count() from {table} where load_id = %s", table=load.table_name)
        short = load.loaded - self.db.scalar(count, load.load_id)
        return short == 0 or (short > 0 and self.taken.of_load(TABLES[load.table_name], load.load_id) == short)


class _Attempt:
    """One reading of a payload into a table, from its first byte to its row in the ledger."""

    def __init__(self, loader: Loader, payload: Payload, table: Table, earlier: Load | None) -> None:
        self.loader, self.payload, self.table = loader, payload, table
        self.resumed = earlier if earlier and earlier.outcome != "rejected" else None
        self.rejected_before = earlier if earlier and earlier.outcome == "rejected" else None
        self.load = replace(self.resumed, run_id=loader.run_id) if self.resumed else self._new_load()
        more = (self._announce, loader.window, loader.taken)
        self.writer = Writer(loader.db, table, self.load, loader.clock, loader.limit, *more)
        self.announced = False
        self.candidates = self.absent = self.repeated = 0
        self.conflicts: list[pa.Table] = []
        self.foreseen: dict[str, int] = {}  # counts, known before the first row is written
        self.ignored: tuple[str, ...] = ()  # columns of the source that nothing uses

    def _new_load(self) -> Load:
        payload = self.payload
        return Load(
            self.loader.clock().replace(tzinfo=None),
            self.loader.ledger.new_id(),
            self.loader.run_id,
            self.table.name,
            payload.kind.feed,
            payload.name,
            payload.sha256,
            bytes=payload.size,
        )

    def run(self) -> LoadReport:
        started = time.monotonic()
        rejects = self._rejects()
        try:
            if self.resumed is None and not self.table.has_feed:
                self.foreseen = self._judged().counts_when_all_is_written()
            self._read_and_write(rejects)
            self._close_accounts(rejects)
        except FileRejected as error:
            rejects.drop()
            return self._reject_whole(str(error))
        except BaseException:
            rejects.drop()
            raise
        return self._finish(rejects, time.monotonic() - started)

    def _rejects(self) -> LoadRejects:
        load = self.load
        common = (load.table_name, load.feed, load.file, load.sha256)
        return self.loader.quarantine.open(load.load_id, *common, self.payload)

    def _read_and_write(self, rejects: LoadRejects) -> None:
        spool = self.loader.spool(self.table)
        schema = empty_records(self.table).schema
        with TimeBuckets(schema, spool, self.loader.limit, self.table.timestamp) as buckets:
            self._parse(buckets, rejects)
            pa.default_memory_pool().release_unused()  # else what one stage needed is held while the next needs more
            with self.writer:
                for pieces in buckets.buckets():
                    standing = Standing(self.table, empty_records(self.table))
                    for piece in pieces:
                        standing.add(piece)
                    self.repeated += standing.duplicate
                    self.conflicts += [*standing.conflicts, self.writer.settle(standing.records)]
                    pa.default_memory_pool().release_unused()
        self._add_refused(rejects, self.conflicts, Reason.CONFLICTING_DUPLICATE)
        self._add_refused(rejects, self.writer.late, Reason.EXPIRED)

    def _parse(self, buckets: TimeBuckets, rejects: LoadRejects) -> None:
        with self.payload.open(self.loader.progress) as stream:
            parsing = self.payload.kind.parse(stream, self.table)
            self.ignored = parsing.ignored
            for chunk in parsing.chunks:
                self.candidates += chunk.candidates
                self.absent += chunk.absent
                rejects.add(chunk.rejects)
                buckets.add(chunk.records)
            while stream.read(1 << 20):  # to the end, where the stream proves that it was the payload
                pass

    def _announce(self) -> None:
        """A new load is in the ledger before its first row is: so a crash leaves no row of an unknown load.

        Where rows do not name their load, what it brings is noted down now: afterwards nothing else could tell.
        """
        if self.resumed is None and not self.announced:
            self.loader.ledger.write(replace(self.load, **self.foreseen))
        self.announced = True

    def _counts(self) -> dict[str, int]:
        """What the load counts: the records that are still open are in none of the counts.

        A load that died, of a table whose rows do not name theirs, has brought what it foresaw: the rows that it wrote
        then look like duplicates now.
        """
        now = self._account(self.candidates - self.writer.outside, self.writer.loaded)
        died = self.resumed if self.resumed and self.resumed.outcome == "started" else None
        if died and died.candidates and not self.table.has_feed and died.rejected == now["rejected"]:
            return died.counts
        return now

    def counts_when_all_is_written(self) -> dict[str, int]:
        """What the load will count when the records that are still open are written, too."""
        return self._account(self.candidates, self.writer.loaded + self.writer.outside)

    def _account(self, candidates: int, loaded: int) -> dict[str, int]:
        """The five counts. Records that neither stand nor are written count as rejected."""
        counted = {"loaded": loaded, "duplicate": self.duplicate, "absent": self.absent}
        return {"candidates": candidates, "rejected": candidates - sum(counted.values()), **counted}

    def _add_refused(self, rejects: LoadRejects, origins: list[pa.Table], reason: Reason) -> None:
        """Puts records into quarantine by their origin. A CSV record leads to its text by its line, read again for it."""
        if not origins:
            return
        refused = pa.concat_tables(origins).sort_by(LINE)
        for start in range(0, refused.num_rows, _REFUSED_AT_ONCE):
            rows = refused.slice(start, _REFUSED_AT_ONCE)
            texts = self._lines(np.unique(rows.column(LINE).drop_null().to_numpy()))
            rejects.add(
                [
                    Reject(
                        row[LINE],
                        row[COLUMN],
                        row[TEXT] if row[LINE] is None else texts[row[LINE]],
                        reason,
                        record=row[COLUMN],
                    )
                    for row in rows.to_pylist()
                ]
            )

    def _lines(self, wanted: np.ndarray) -> dict[int, str]:
        if not len(wanted):
            return {}
        with self.payload.open() as stream:
            texts = read_lines(stream, wanted)
        if len(texts) < len(wanted):
            raise PayloadChanged(f"{self.payload.name} changed while it was read; run the command again.")
        return texts

    def _reject_whole(self, reason: str) -> LoadReport:
        nothing = dict.fromkeys((*COUNTS, "revised"), 0)
        load = self.rejected_before or replace(self.load, **nothing, seconds=0.0, outcome="rejected")
        if self.resumed is None or self.resumed.outcome == "started":
            self.loader.ledger.write(load)
        else:
            load = replace(load, **nothing)  # the ledger keeps what was loaded of it once
        kept = self.loader.quarantine.keep_file(self.payload)
        return LoadReport(
            self.payload, load, "rejected", f"{reason.rstrip('.')}. A copy is kept as {kept.name} in the quarantine."
        )

    def _close_accounts(self, rejects: LoadRejects) -> None:
        writer = self.writer
        if self.candidates != writer.loaded + writer.outside + rejects.count + self.duplicate + self.absent:
            raise LoadError(
                f"{self.load.file} → {self.table.name}: {self.candidates} candidates, but {writer.loaded} loaded, "
                f"{writer.outside} left for later, {rejects.count} rejected, {self.duplicate} duplicate and "
                f"{self.absent} absent. This is a defect: please report it."
            )

    @property
    def duplicate(self) -> int:
        return self.repeated + self.writer.duplicate

    def _finish(self, rejects: LoadRejects, seconds: float) -> LoadReport:
        surplus = self.writer.prove()
        if rejects.count:
            self._announce()  # they are kept under its id
        rejects.keep()
        if surplus or (self.writer.written and not self.table.has_feed):
            self._require_all_written()
        done = replace(
            self.load,
            **self._counts(),
            revised=self.writer.revised(resumed=self.resumed is not None),
            seconds=round(seconds, 3),
            outcome="partial" if self.writer.outside else "loaded",
        )
        stood = self.resumed if self.resumed and self._is_still(self.resumed, done) else None
        if stood and stood.outcome == "loaded":
            return LoadReport(self.payload, stood, "unchanged")
        if stood is None:
            self.loader.ledger.write(done)
        return LoadReport(self.payload, stood or done, done.outcome, self._remarks(surplus))

    def _is_still(self, before: Load, done: Load) -> bool:
        """Whether the load stands in the ledger as it is.

        Where rows do not name their load, its own look like duplicates: which of the two they are, the ledger knows.
        """
        told = COUNTS if self.table.has_feed else ("candidates", "rejected", "absent")
        same = all(getattr(before, name) == getattr(done, name) for name in told)
        return same and before.outcome == done.outcome and not self.writer.written

    def _require_all_written(self) -> None:
        """Proves that all rows are there where a count cannot.

        In a table whose rows name their load some may be too many, of an earlier attempt that read the payload
        otherwise than this release does, and hide that others are missing. Raises LoadError.
        """
        if self._judged().writer.outside > self.writer.outside:
            self.loader.db.close()  # a connection that still writes to a dropped table of this name would do so again
            raise LoadError(
                f"{self.load.file} → {self.table.name}: rows that were written are not there. "
                "Run the command again; if it stays so, look into QuestDB's log."
            )

    def _judged(self) -> _Attempt:
        """Another reading of the payload, which writes nothing: what is not stored is all left open."""
        loader = replace(self.loader, progress=quiet, window=_NEVER)
        judged = _Attempt(loader, self.payload, self.table, self.load)
        rejects = judged._rejects()
        try:
            judged._read_and_write(rejects)
        finally:
            rejects.drop()
        return judged

    def _remarks(self, surplus: int) -> str | None:
        remarks = [f"columns that nothing uses: {', '.join(self.ignored)}"] if self.ignored else []
        if left := self.writer.outside:
            remarks.append(f"{left} records are of sessions that were not asked for")
        if late := sum(origins.num_rows for origins in self.writer.late):
            remarks.append(f"{late} records are of a time that a retention has taken away, and not in its export")
        remarks += self.writer.unreadable[:1]
        if surplus:
            remarks.append(f"{surplus} rows of this load are from an earlier reading and no longer in the file")
        return "; ".join(remarks) or None
