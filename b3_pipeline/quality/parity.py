"""Parity: the source, parsed again, against the table's rows of its feed; keys both ways, then values.

Both sides are held in pieces: the source's records set aside by time (ADR 3), the rows fetched stretch by stretch, so
that stretches tile all of time and no row escapes. Memory depends on `Context.limit` only.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil
import pyarrow as pa

from b3_pipeline.loading.buckets import TimeBuckets
from b3_pipeline.loading.compare import Standing, any_of, differing, key_ids, unify
from b3_pipeline.loading.payloads import Payload
from b3_pipeline.loading.replay import PREFIX
from b3_pipeline.parsing.records import LINE, Chunk, FileRejected, empty_records
from b3_pipeline.quality.documents import CAPTURES, DOCUMENT_KINDS, parsed
from b3_pipeline.quality.drill import Drill
from b3_pipeline.quality.finding import SHOWN, Context, located
from b3_pipeline.quality.sources import Sources
from b3_pipeline.quality.stored import during, of_feed, partition_of, stretches
from b3_pipeline.questdb.client import named
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.tables import Table

#: Which of the sources a record is of: grows in the order in which they count.
_SOURCE = "_source"
_MICROSECOND = timedelta(microseconds=1)


Tell = Callable[[Window, pa.Table], None]


def _nobody(_stretch: Window, _extra: pa.Table) -> None:
    pass


@dataclass
class Parity:
    """What came of a table and a feed.

    `source_keys` are those that the sources' records stand for, `table_keys` those stored; `rejected` counts the
    sources' records that may not be stored, `expired` the keys that a retention has taken away.
    """

    table: Table
    feed: str
    source_keys: int = 0
    table_keys: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    rejected: int = 0
    expired: int = 0
    read: list[tuple[str, str]] = field(default_factory=list)  # name and SHA-256 of the sources that could be read
    unreadable: list[str] = field(default_factory=list)  # the others: name and reason
    unaccounted: int = 0  # of those, how many no load rejected and put into quarantine
    offending: list[dict[str, Any]] = field(default_factory=list)
    drill: Drill = field(default_factory=Drill)  # missing, extra and different ones by partition
    to_load: set[int] = field(
        default_factory=set
    )  # places in `read` of the sources that missing or other records are of
    strangers: dict[int, int] = field(default_factory=dict)  # extra rows by the load whose id they bear
    crowded: dict[str, set[int]] = field(default_factory=dict)  # QuestDB's partitions with extra rows, and their loads

    @property
    def numbers(self) -> dict[str, int]:
        """The seven numbers of `b3 validate --json`."""
        names = ("source_keys", "table_keys", "missing", "extra", "different", "rejected", "expired")
        return {name: getattr(self, name) for name in names}

    @property
    def sourceless(self) -> bool:
        """Whether there are rows, and nothing that they could be judged against (corrections are of some rows only)."""
        return bool(self.table_keys) and all(name.startswith(PREFIX) for name, _sha256 in self.read)

    def holds(self, tolerance: int = 0) -> bool:
        """Whether table and sources agree, but for so many keys, and each source was read or rejected by its load."""
        return not (self.sourceless or self.unaccounted) and max(self.missing, self.extra, self.different) <= tolerance

    def settled(self) -> Parity:
        """The result, complete: rows without any source are not extra, for nothing was said about them."""
        if self.sourceless:
            self.extra, self.offending, self.drill, self.strangers, self.crowded = 0, [], Drill(), {}, {}
        return self

    def show(self, problem: str, rows: list[dict[str, Any]]) -> None:
        """Keeps the first rows of each problem."""
        room = SHOWN - sum(row["problem"] == problem for row in self.offending)
        self.offending += [{"problem": problem, **located(self.table, row)} for row in rows[:room]]


@dataclass(frozen=True)
class Comparison:
    """Records with distinct keys against rows: `missing` are places of records, `extra` of rows (one a key).

    `pairs` are the places (record, row) with one key, `unlike` says by column which pairs differ.
    """

    missing: np.ndarray
    extra: np.ndarray
    pairs: tuple[np.ndarray, np.ndarray]
    unlike: dict[str, np.ndarray]
    row_keys: int

    @property
    def different(self) -> np.ndarray:
        """The places of records of which a row differs, each once."""
        return np.unique(self.pairs[0][any_of(self.unlike.values(), len(self.pairs[0]))])


def compare(table: Table, records: pa.Table, rows: pa.Table) -> Comparison:
    """Compares by the table's keys without feed, and by its `values`; both sides are of one feed."""
    ids = common_ids(table, records, rows)
    mine, theirs = ids[: records.num_rows], ids[records.num_rows :]
    place = np.full(len(ids), -1)
    place[mine] = np.arange(len(mine))
    record = place[theirs]
    row = np.flatnonzero(record >= 0)
    distinct, first = np.unique(theirs, return_index=True)
    missing = np.ones(len(mine), bool)
    missing[record[row]] = False
    unlike = differing(records.take(record[row]), rows.take(row), table.values)
    return Comparison(
        np.flatnonzero(missing), np.sort(first[record[first] < 0]), (record[row], row), unlike, len(distinct)
    )


def common_ids(table: Table, *sides: pa.Table) -> np.ndarray:
    """`key_ids` of several tables of one feed, one after another. A key that is null is a key like any other."""
    keys = _keys(table)
    return key_ids(unify([side.select(keys) for side in sides]), keys)


def parity(context: Context, table: Table, feed: str, window: Window = ALWAYS, tell: Tell = _nobody) -> Parity:
    """Reads the sources of a feed again and compares what they stand for with what is stored, in the window.

    `tell` is given each stretch of time that has rows or records, in order, with the rows in it that no source has.
    Rejected records have no time and are counted whatever the window is. Raises NotApplied when the table does not show
    what was written to it, PayloadChanged when a file changes meanwhile.
    """
    context.db.wait_applied(table.name)
    judge = _Judge(context, Sources(context, table, feed), Parity(table, feed), tell)
    schema = _with_source(empty_records(table), 0).schema
    with TimeBuckets(schema, _spool(context.home), context.limit, table.timestamp) as buckets:
        for records in judge.records():
            inside = window.mask(records.column(table.timestamp).to_numpy())
            buckets.add(records if inside.all() else records.filter(pa.array(inside)))
        start = window.start
        for pieces in buckets.buckets():
            standing = judge.standing(pieces)
            if standing.num_rows:
                end = standing.column(table.timestamp).to_numpy().max().item() + _MICROSECOND
                judge.against_rows(standing, Window(start, end))
                start = end
        judge.against_rows(schema.empty_table(), Window(start, window.end))
    return judge.result.settled()


class _Judge:
    """One reading of a feed's sources against its rows."""

    def __init__(self, context: Context, sources: Sources, result: Parity, tell: Tell) -> None:
        self.context, self.sources, self.result, self.tell = context, sources, result, tell
        self.table = result.table

    def records(self) -> Iterator[pa.Table]:
        """All records of all sources, in the order in which they count, each with its source's place."""
        self.result.unreadable += self.sources.unopened()
        self.result.unaccounted = len(self.result.unreadable)
        for payload in self.sources:
            place = len(self.result.read)
            try:
                yield from self._parsed(payload, place)
            except FileRejected as error:
                self.result.unreadable.append(f"{payload.name}: {error}")
                self.result.unaccounted += not self.sources.rejected_by_load(payload)

    def _parsed(self, payload: Payload, place: int) -> Iterator[pa.Table]:
        with payload.open(self.context.progress) as stream:
            for chunk in self._chunks(payload, stream):
                self.result.rejected += len(chunk.rejects)
                yield _with_source(chunk.records, place)
            while stream.read(1 << 20):  # to the end, where the stream proves that it was the payload
                pass
        self.result.read.append((payload.name, payload.sha256))

    def _chunks(self, payload: Payload, stream: BinaryIO) -> Iterable[Chunk]:
        if payload.kind in DOCUMENT_KINDS:
            return parsed(payload.kind, stream.read(), self.table)
        return payload.kind.parse(stream, self.table).chunks

    def standing(self, pieces: Iterator[pa.Table]) -> pa.Table:
        """Of each key the record that stands: in a source the first, of several sources the last one's."""
        by_source = replace(self.table, keys=(*self.table.keys, _SOURCE))
        firsts = Standing(by_source, _with_source(empty_records(self.table), 0))
        for piece in pieces:
            firsts.add(piece)
        self.result.rejected += sum(conflict.num_rows for conflict in firsts.conflicts)
        return _newest(firsts.records, _keys(self.table))

    def against_rows(self, standing: pa.Table, window: Window) -> None:
        """Judges standing records against the rows of a window that holds all of them."""
        moments = standing.column(self.table.timestamp).to_numpy()
        feed = of_feed(self.result.feed)
        for stretch, count in stretches(self.context.db, self.table, self.context.limit, window, feed):
            records = standing.filter(pa.array(stretch.mask(moments)))
            if count or records.num_rows:
                rows = stored_rows(self.context, self.table, self.result.feed, stretch, count)
                extra = self._account(records, rows)
                self.tell(stretch, rows.take(extra))

    def _account(self, records: pa.Table, rows: pa.Table) -> np.ndarray:
        """Counts what differs; returns the places of the rows that no source has."""
        found = compare(self.table, records, rows)
        self.result.source_keys += records.num_rows
        self.result.table_keys += found.row_keys
        self._account_missing(records, found.missing)
        self._account_different(records, rows, found)
        return self._account_extra(rows, found.extra)

    def _account_missing(self, records: pa.Table, places: np.ndarray) -> None:
        moments = records.column(self.table.timestamp).to_numpy()[places]
        expired = any_of((w.mask(moments) for w in self.context.expired.get(self.table.name, ())), len(places))
        self.result.expired += int(expired.sum())
        missing = places[~expired]
        self.result.missing += len(missing)
        self._remember(records, missing)
        at = moments[~expired]
        self.result.drill.count("missing", at)
        self._show("missing", at, lambda few: [self._key(r) | self._origin(r) for r in _rows(records, missing[few])])

    def _account_extra(self, rows: pa.Table, places: np.ndarray) -> np.ndarray:
        moments = rows.column(self.table.timestamp).to_numpy()[places]
        proofless = np.array(sorted(self.sources.unproven), "datetime64[us]")
        changed = np.isin(moments.astype("datetime64[us]"), proofless)
        if self.table is CAPTURES:
            self._account_changed(rows, places[changed])
        judged = ~(changed | self.sources.undocumented(moments))
        extra, at = places[judged], moments[judged]
        self.result.extra += len(extra)
        self._remember_strangers(rows.take(extra))
        self.result.drill.count("extra", at)
        self._show("extra", at, lambda few: [self._key(row) for row in _rows(rows, extra[few])])
        return extra

    def _remember_strangers(self, rows: pa.Table) -> None:
        days = rows.column(self.table.timestamp).to_numpy().astype("datetime64[D]")
        loads = rows.column("load_id").fill_null(0).to_numpy()
        pairs, counts = np.unique(np.stack([days.astype(np.int64), loads], axis=1), axis=0, return_counts=True)
        for (day, load_id), count in zip(pairs.tolist(), counts.tolist(), strict=True):
            self.result.strangers[load_id] = self.result.strangers.get(load_id, 0) + count
            partition = partition_of(self.table, np.datetime64(day, "D").astype("datetime64[us]").item())
            self.result.crowded.setdefault(partition, set()).add(load_id)

    def _account_changed(self, rows: pa.Table, places: np.ndarray) -> None:
        """Documents that are no longer what their SHA-256 says."""
        self.result.different += len(places)
        gone = {"column": "payload", "source_value": "a document of the row's SHA-256, now gone"}
        at = rows.column(self.table.timestamp).to_numpy()[places]
        self.result.drill.count("different", at)
        self._show("different", at, lambda few: [self._key(row) | gone for row in _rows(rows, places[few])])

    def _account_different(self, records: pa.Table, rows: pa.Table, found: Comparison) -> None:
        different = found.different
        self.result.different += len(different)
        self._remember(records, different)
        moments = records.column(self.table.timestamp).to_numpy()
        self.result.drill.count("different", moments[different])
        for column, unlike in found.unlike.items():
            mine, theirs = (side[unlike] for side in found.pairs)
            pairs = partial(self._pairs, column, records, rows, mine, theirs)
            self._show("different", moments[mine], pairs)

    def _pairs(
        self, column: str, records: pa.Table, rows: pa.Table, mine: np.ndarray, theirs: np.ndarray, few: np.ndarray
    ) -> list[dict[str, Any]]:
        """Both values of a column, in some of the places at which records and rows differ in it."""
        return [
            self._key(a) | {"column": column, "source_value": a[column], "stored_value": b[column]} | self._origin(a)
            for a, b in zip(_rows(records, mine[few]), _rows(rows, theirs[few]), strict=True)
        ]

    def _show(self, problem: str, moments: np.ndarray, rows: Callable[[np.ndarray], list[dict[str, Any]]]) -> None:
        """Keeps the first rows of a problem, and the first in each partition; `rows` gives those at some places."""
        self.result.show(problem, rows(np.arange(min(len(moments), SHOWN))))
        self.result.drill.show(problem, moments, rows)

    def _remember(self, records: pa.Table, places: np.ndarray) -> None:
        self.result.to_load |= set(np.unique(records.column(_SOURCE).to_numpy()[places]).tolist())

    def _key(self, row: dict[str, Any]) -> dict[str, Any]:
        return {key: row[key] for key in _keys(self.table)} | {"feed": self.result.feed}

    def _origin(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"file": self.result.read[row[_SOURCE]][0], "line": row[LINE]}


def stored_rows(context: Context, table: Table, feed: str, window: Window, count: int) -> pa.Table:
    """Keys, values and load of the rows of a feed in a window, which holds so many."""
    names = {*_keys(table), *(c.name for c in table.values), "load_id"}
    wanted = tuple(c for c in table.columns if c.name in names)
    schema = table.arrow_schema(wanted)
    if not count:
        return schema.empty_table()
    where = during(table, window) & of_feed(feed)
    query = named("select {columns} from {t} where ", columns=[c.name for c in wanted], t=table.name)
    return context.db.arrow(query + where.text, *where.values, schema=schema)


def _rows(rows: pa.Table, places: np.ndarray) -> list[dict[str, Any]]:
    return rows.take(places).to_pylist()


def _keys(table: Table) -> list[str]:
    return [key for key in table.keys if key != "feed"]


def _with_source(records: pa.Table, place: int) -> pa.Table:
    return records.append_column(pa.field(_SOURCE, pa.int64()), pa.array(np.full(records.num_rows, place)))


def _newest(records: pa.Table, keys: list[str]) -> pa.Table:
    """Of records that are distinct by key and source, those of the last source of each key."""
    if not records.num_rows:
        return records
    ids = key_ids(records, keys)
    source = records.column(_SOURCE).to_numpy()
    order = np.lexsort((source, ids))
    last = np.append(ids[order][1:] != ids[order][:-1], True)
    return records if last.all() else records.take(np.sort(order[last]))


def _spool(home: Path) -> Path:
    """Where this process sets records aside; what a process that is gone has left is cleared."""
    folder = home / "spool" / "parity"
    for left in folder.glob("*"):
        if not psutil.pid_exists(int(left.name)):
            shutil.rmtree(left, ignore_errors=True)
    return folder / str(os.getpid())
