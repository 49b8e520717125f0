"""Loading the LowDB files into the schema `ideas`: a file is one transaction, and every record of it is accounted for.

Afterwards the tables of a file are what the file says: what is new is inserted, what is other is updated, what is no longer
in it removed, all by batches, so that any file fits into memory. What came before stands in the history, what was rejected
in the quarantine. It is for the phases in which the files are the truth (`migrating.require_phase`); who writes them beside
holds them still meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import sql

from b3_pipeline.errors import B3Error
from b3_pipeline.failpoints import reached
from b3_pipeline.loading.load import quiet
from b3_pipeline.loading.payloads import Payload
from b3_pipeline.loading.quarantine import LoadRejects, Quarantine
from b3_pipeline.lowdb.model import BY_TABLE, SCHEMA, Collection, Kind
from b3_pipeline.lowdb.reading import Element, LowdbFile, collections_of
from b3_pipeline.lowdb.rules import BadRecord, checked
from b3_pipeline.lowdb.schema import ideas, identifiers
from b3_pipeline.parsing.json_text import child
from b3_pipeline.parsing.records import FileRejected, Reason, Reject
from b3_pipeline.signals.hiding import without_secrets, without_tokens

#: The steps of a load at which a test ends the process.
STEPS = (
    "lowdb: a batch merged",
    "lowdb: gone rows removed",
    "lowdb: load noted",
    "lowdb: rejects kept",
    "lowdb: file committed",
)
#: A batch has so many records at most, and so many characters.
BATCH, LONGEST = 20_000, 16 << 20
COUNTS = ("candidates", "loaded", "rejected", "duplicate")
#: What a load does to a table; not part of the accounting identity.
CHANGES = ("inserted", "updated", "removed")
#: The rows of a batch are looked up by their ids, and no batch goes through all of the table: so much the server's own
#: idea of what a look-up costs would make of it, once the table is large.
_PLANS: LiteralString = "set local work_mem = '64MB'; set local random_page_cost = 1.1; set local jit = off"
_T = TypeVar("_T")


class Unaccounted(B3Error):
    """The counts of a load do not close. This is a defect."""


@dataclass
class Counted:
    """What came of the records of a table: `candidates == loaded + rejected + duplicate`; and what that did to its rows."""

    table: str
    candidates: int = 0
    loaded: int = 0
    rejected: int = 0
    duplicate: int = 0
    inserted: int = 0
    updated: int = 0
    removed: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """The four counts of the accounting identity."""
        return {name: getattr(self, name) for name in COUNTS}

    @property
    def changes(self) -> dict[str, int]:
        """How many rows are not as they were before."""
        return {name: getattr(self, name) for name in CHANGES}


@dataclass(frozen=True)
class Outcome:
    """What came of a file: loaded, unchanged (it was loaded as it is before; the counts are of then), rejected, missing.

    A file that was loaded as it is, and whose tables somebody else has written since, is loaded once more.
    """

    file: str
    outcome: str
    sha256: str | None = None
    reason: str | None = None
    tables: Sequence[Counted] = ()
    seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "tables": {each.table: {**each.counts} for each in self.tables}}


@dataclass(frozen=True)
class Loading:
    """What a load needs besides its file. `clock` gives aware UTC; `progress` is told the bytes that were read.

    `again`: a file that was loaded before is read, too, and what is no longer as it says is put right.
    """

    dsn: str
    home: Path
    clock: Callable[[], datetime]
    who: str
    run_id: str = ""
    progress: Callable[[int], None] = quiet
    again: bool = False

    def known(self, payload: Payload) -> Outcome | None:
        """What came of a file whose newest load was of the very same bytes; None: it is to be loaded. Raises IdeasError.

        None also where somebody else has written its tables since.
        """
        with ideas(self.dsn) as db:
            return None if self.again else _known(db, payload)

    def load(self, payload: Payload) -> Outcome:
        """Loads a file, all of it or nothing; one that was loaded as it is before is left alone.

        Raises IdeasError, Unaccounted, PayloadChanged and OSError: then nothing has changed, and it may be run again.
        """
        started = time.monotonic()
        if before := self.known(payload):
            self.progress(payload.size)
            return before
        with ideas(self.dsn) as db:
            try:
                tables, ignored = self._load(db, payload)
            except FileRejected as error:
                kept = Quarantine(self.home / "quarantine").keep_file(payload)
                told = f"{str(error).rstrip('.')}. A copy is kept as {kept.name} in the quarantine."
                return Outcome(payload.name, "rejected", payload.sha256, told)
        reached(STEPS[4])
        reason = f"no rule knows {', '.join(ignored)}: left out" if ignored else None
        return Outcome(payload.name, "loaded", payload.sha256, reason, tables, time.monotonic() - started)

    def _load(self, db: psycopg.Connection, payload: Payload) -> tuple[list[Counted], list[str]]:
        started, collections = time.monotonic(), collections_of(payload.name)
        with db.transaction():
            db.execute(_PLANS)
            db.execute("select set_config('b3.who', %s, true)", (self.who,))
            merges = {each: _Merge(db, each, self._rejects(payload, each)) for each in collections}
            try:
                counters, ignored = self._read(payload, merges)
                for merge in reversed(merges.values()):  # what refers goes before what is referred to
                    merge.remove_gone()
                reached(STEPS[1])
                for merge in merges.values():
                    merge.finish(counters.get(merge.collection.counter or ""))
                self._note(db, payload, [m.counted for m in merges.values()], time.monotonic() - started)
                reached(STEPS[2])
                # before the commit: should it fail, the next attempt puts its own in their place
                for merge in merges.values():
                    merge.rejects.keep()
                reached(STEPS[3])
            except BaseException:
                for merge in merges.values():
                    merge.rejects.drop()
                raise
        return [merge.counted for merge in merges.values()], ignored

    def _read(self, payload: Payload, merges: Mapping[Collection, _Merge]) -> tuple[Mapping[str, int], list[str]]:
        """Merges all records; where some refer to others of the file it is read twice, for they stand in any order."""
        referring = [each for each in merges if any(f.refers_to for f in each.fields)]
        rounds = [[each for each in merges if each not in referring], *([referring] if referring else [])]
        counters: Mapping[str, int] = {}
        ignored: list[str] = []
        for only in rounds:
            with payload.raw(self.progress if only is rounds[0] else quiet) as stream:
                file = LowdbFile(stream, payload.name, only)
                for batch in one_ahead(batches(file, only)):
                    merges[batch.collection].take(batch)
                    reached(STEPS[0])
                counters, ignored = file.counters, file.ignored
        return counters, ignored

    def _rejects(self, payload: Payload, collection: Collection) -> LoadRejects:
        """Where the rejects of a table go: under an id that is of the very bytes, so an attempt that is made again has it."""
        digest = hashlib.sha256(f"{collection.table} {payload.sha256}".encode()).hexdigest()
        quarantine = Quarantine(self.home / "quarantine")
        return quarantine.open(int(digest[:13], 16), collection.table, "lowdb", payload.name, payload.sha256)

    def _note(self, db: psycopg.Connection, payload: Payload, tables: list[Counted], seconds: float) -> None:
        insert = (
            "insert into ideas.loads (at, file, sha256, table_name, candidates, loaded, rejected, duplicate, inserted, "
            "updated, removed, seconds, who, release, run_id) values (%(at)s, %(file)s, %(sha256)s, %(table)s, "
            "%(candidates)s, %(loaded)s, %(rejected)s, %(duplicate)s, %(inserted)s, %(updated)s, %(removed)s, "
            "%(seconds)s, %(who)s, %(release)s, %(run_id)s)"
        )
        common = {"at": self.clock(), "file": payload.name, "sha256": payload.sha256, "seconds": round(seconds, 3)}
        whose = {"who": self.who, "release": version("b3-pipeline"), "run_id": self.run_id}
        for counted in tables:
            if counted.candidates != counted.loaded + counted.rejected + counted.duplicate:
                raise Unaccounted(
                    f"{payload.name} → {counted.table}: {counted.counts} do not close. Nothing was loaded. This is a "
                    "defect: please report it."
                )
            db.execute(insert, {**asdict(counted), **common, **whose})


def _known(db: psycopg.Connection, payload: Payload) -> Outcome | None:
    query = (
        "select distinct on (table_name) table_name, sha256, candidates, loaded, rejected, duplicate from ideas.loads "
        "where file = %s order by table_name, id desc"
    )
    newest = {
        table: counts for table, sha256, *counts in db.execute(query, (payload.name,)) if sha256 == payload.sha256
    }
    tables = [each.table for each in collections_of(payload.name)]
    if newest.keys() != set(tables) or written_since(db, tables):
        return None
    counted = [Counted(table, *newest[table]) for table in tables]
    return Outcome(payload.name, "unchanged", payload.sha256, tables=counted)


def loaded_since(db: psycopg.Connection, at: datetime) -> list[Outcome]:
    """What was loaded since a moment (aware UTC), by file."""
    query = (
        "select file, sha256, table_name, candidates, loaded, rejected, duplicate, inserted, updated, removed from ideas.loads "
        "where at >= %s order by id"
    )
    files: dict[tuple[str, str], list[Counted]] = {}
    for file, sha256, *counts in db.execute(query, (at,)):
        files.setdefault((file, sha256), []).append(Counted(*counts))
    return [Outcome(file, "loaded", sha256, tables=tables) for (file, sha256), tables in files.items()]


def written_since(db: psycopg.Connection, tables: Iterable[str]) -> list[str]:
    """Those of some tables that somebody else than a load has written: of rows that are gone, only that they are fewer."""
    return [table for table in tables if not _is_as_loaded(db, table)]


def _is_as_loaded(db: psycopg.Connection, table: str) -> bool:
    loads = db.execute("select xid %% 4294967296, loaded from ideas.loads where table_name = %s order by id", (table,))
    found = loads.fetchall()
    count = sql.SQL("select count(*), count(*) filter (where xmin::text::bigint = any(%s)) from {}")
    query = count.format(sql.Identifier(SCHEMA, table))
    [(rows, ours)] = db.execute(query, ([xid for xid, _loaded in found],)).fetchall()
    return rows == ours == (found[-1][1] if found else 0)


# Batches of a file


@dataclass
class Batch:
    """Records of one collection in the file's order: their rows as COPY takes them, and their texts by their places."""

    collection: Collection
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    candidates: int = 0
    size: int = 0

    def add(self, element: Element) -> None:
        """Takes an element as a row, or as a reject."""
        self.candidates += 1
        self.size += len(element.text)
        if not isinstance(element.value, dict):
            self.rejects.append(_reject(element.place, element.text, Reason.BAD_TEXT, element.pointer))
            return
        try:
            record = checked(self.collection, element.value, element.pointer)
        except BadRecord as bad:
            first = bad.faults[0]
            self.rejects.append(_reject(element.place, element.text, first.reason, first.pointer, first.value))
            return
        self.rows.append((element.place, *_copied(self.collection, record)))
        self.texts[element.place] = element.text


def _reject(place: int, text: str, reason: Reason, pointer: str, value: str | None = None) -> Reject:
    """A record for the quarantine, which people read and send on, without what may be a bot's token.

    Of a file that is kept whole, because it is no LowDB file, nothing is taken out.
    """
    kept = without_secrets(text.encode("utf-8", "replace")).decode()
    return Reject(None, without_tokens(pointer), kept, reason, value, record=str(place))


def batches(file: LowdbFile, only: Sequence[Collection]) -> Iterator[Batch]:
    """The records of a file by batches, each of one collection. Raises FileRejected."""
    filling = {each: Batch(each) for each in only}
    for element in file:
        batch = filling[element.collection]
        batch.add(element)
        if batch.candidates >= BATCH or batch.size >= LONGEST:
            yield batch
            filling[element.collection] = Batch(element.collection)
    yield from (batch for batch in filling.values() if batch.candidates)


def one_ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The items, the next one worked out in a thread while the reader has one: PostgreSQL works meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, items, None)
            yield item


def _copied(collection: Collection, record: Mapping[str, Any]) -> Iterator[Any]:
    """The columns of a canonical record as texts of PostgreSQL: no moment is made of a text that is one."""
    names = collection.fields
    for name in names:
        value = record[name.name]
        yield _array(value) if name.kind is Kind.TAGS else value
    known = {name.name for name in names} if len(record) > len(names) else ()
    extra = {name: value for name, value in record.items() if name not in known} if known else {}
    yield json.dumps(extra, ensure_ascii=False)


def _array(texts: Sequence[str]) -> str:
    """A `text[]` as PostgreSQL reads it."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


# Into the tables


class _Merge:
    """One table while a file is loaded into it. Nobody else writes into it meanwhile, everybody reads what it was."""

    def __init__(self, db: psycopg.Connection, collection: Collection, rejects: LoadRejects) -> None:
        self.collection, self.rejects = collection, rejects
        self.counted = Counted(collection.table)
        self._db, self._sql = db, _statements(collection)
        for name in ("lock", "given", "repeated", "seen"):
            db.execute(self._sql[name])

    def take(self, batch: Batch) -> None:
        """Brings the rows of a batch into the table; settles what repeats and what refers to nothing."""
        self.counted.candidates += batch.candidates
        rejects = list(batch.rejects)
        copy_rows(self._db, batch)
        for name in [each.name for each in self.collection.fields if each.refers_to]:
            for place, value in self._db.execute(dangling(self.collection, name, "seen")):
                pointer = f"/{self.collection.member}/{place}/{name}"
                rejects.append(_reject(place, batch.texts[place], Reason.OUT_OF_BOUNDS, pointer, str(value)))
        self._db.execute(self._sql["set_aside"])
        new = self._db.execute(self._sql["insert"]).rowcount
        loaded = self._db.execute(self._sql["note"]).rowcount
        self.counted.inserted += new
        self.counted.loaded += loaded
        if loaded > new:
            self.counted.updated += self._db.execute(self._sql["update"]).rowcount
        for place, same in self._db.execute(self._sql["settle"]):
            self.counted.duplicate += same
            if not same:
                pointer = child(f"/{self.collection.member}/{place}", self.collection.id.name)
                rejects.append(_reject(place, batch.texts[place], Reason.CONFLICTING_DUPLICATE, pointer))
        self._db.execute(self._sql["clear"])
        self.counted.rejected += len(rejects)
        self.rejects.add(sorted(rejects, key=lambda reject: int(reject.record or 0)))

    def remove_gone(self) -> None:
        """Takes away the rows that the file no longer has."""
        self.counted.removed = self._db.execute(self._sql["remove"]).rowcount

    def finish(self, counter: int | None) -> None:
        """Lets the next id be the one that the file says, and never one that was given."""
        self._db.execute(self._sql["next"], {"table": f"{SCHEMA}.{self.collection.table}", "last": (counter or 1) - 1})


def copy_rows(db: psycopg.Connection, batch: Batch) -> None:
    """Puts the rows of a batch into the table `given` of their collection."""
    query = sql.SQL("copy {given} (place, {columns}) from stdin").format(**parts_of(batch.collection))
    with db.cursor().copy(query) as copy:
        for row in batch.rows:
            copy.write_row(row)


@cache
def parts_of(collection: Collection) -> Mapping[str, sql.Composable]:
    """What statements on a collection name: its table, its columns (`t` and `g`: without the id), tables of the moment.

    `given` has the records of a batch, `repeated` those that came before, `seen` the ids so far.
    """
    columns = collection.columns
    others = columns[1:]
    return {
        "table": sql.Identifier(SCHEMA, collection.table),
        **{name: sql.Identifier(f"{name}_{collection.table}") for name in ("given", "repeated", "seen")},
        "columns": identifiers(columns),
        "of_given": identifiers(columns, "g"),
        "set": sql.SQL(", ").join(sql.SQL("{c} = g.{c}").format(c=sql.Identifier(c)) for c in others),
        "t": identifiers(others, "t"),
        "g": identifiers(others, "g"),
    }


@cache
def _statements(collection: Collection) -> Mapping[str, sql.Composed]:
    """The statements of a load, by what they do."""
    return {name: sql.SQL(text).format(**parts_of(collection)) for name, text in _TEXTS.items()}


#: Columns of a batch are not null and not checked: its records are.
_TEXTS: Mapping[str, LiteralString] = {
    "lock": "lock table {table} in share row exclusive mode",
    "given": "create temporary table {given} on commit drop as select 0::bigint place, {columns} from {table} limit 0",
    "repeated": "create temporary table {repeated} (like {given}) on commit drop",
    "seen": "create temporary table {seen} (id bigint primary key) on commit drop",
    "set_aside": "with gone as (delete from {given} g using (select id, min(place) first from {given} group by id) f "
    "left join {seen} s using (id) where g.id = f.id and (g.place > f.first or s.id is not null) returning g.*) "
    "insert into {repeated} select * from gone",
    "update": "update {table} t set {set} from {given} g where t.id = g.id and ({t}) is distinct from ({g})",
    "insert": "insert into {table} ({columns}) select {of_given} from {given} g "
    "where not exists (select from {table} t where t.id = g.id) order by g.place",
    "note": "insert into {seen} select id from {given}",
    "settle": "select g.place, ({t}) is not distinct from ({g}) from {repeated} g join {table} t using (id) order by 1",
    "clear": "truncate {given}, {repeated}",
    "remove": "delete from {table} t where not exists (select from {seen} s where s.id = t.id)",
    "next": "with ids as (select pg_get_serial_sequence(%(table)s, 'id')::regclass ids, "
    "(select max(id) from {table}) highest) select setval(ids, highest) from (select ids, "
    "greatest(highest, %(last)s, pg_sequence_last_value(ids)) highest from ids) found where highest > 0",
}


@cache
def dangling(collection: Collection, name: str, there: str) -> sql.Composed:
    """Takes those rows out of `given` that refer to what the file has not; gives their places, and what they refer to.

    `there` is the table of the moment with the ids that the file has: given or seen.
    """
    field = collection.field(name)
    return sql.SQL(
        "delete from {given} g where not exists (select from {there} s where s.id = g.{column}) returning place, {column}"
    ).format(
        given=sql.Identifier(f"given_{collection.table}"),
        there=sql.Identifier(f"{there}_{field.refers_to}"),
        column=sql.Identifier(field.column),
    )


def standing(db: psycopg.Connection) -> list[dict[str, Any]]:
    """For each table its rows, and the newest load of it: file, moment, counts (None where there was none)."""
    query = (
        "select distinct on (table_name) table_name, at, file, sha256, candidates, loaded, rejected, duplicate "
        "from ideas.loads order by table_name, id desc"
    )
    names = ("loaded_at", "file", "sha256", *COUNTS)
    newest = {table: dict(zip(names, rest, strict=True)) for table, *rest in db.execute(query)}
    count = sql.SQL("select count(*) from {}")
    return [
        {
            "table": table,
            "rows": db.execute(count.format(sql.Identifier(SCHEMA, table))).fetchall()[0][0],
            **newest.get(table, dict.fromkeys(names)),
        }
        for table in BY_TABLE
    ]
