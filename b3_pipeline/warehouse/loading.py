"""Loading the warehouse: its schema brought to this release's version, and each partition as its export has it.

A partition is one transaction: what the warehouse has of its time goes, the rows of the export come, and `loads` notes
what they are. So a reader sees the partition as it was or as it is, and a process that dies leaves it as it was. An export
is verified before anything is touched. The newest partition of a table, which no export has, is exported into a folder of
the moment and goes the same way; its source is noted as `open`.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pyarrow as pa
from psycopg import sql

from b3_pipeline.failpoints import reached
from b3_pipeline.loading.load import quiet
from b3_pipeline.places import Place, place
from b3_pipeline.postgres.migrating import Schema
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import Window
from b3_pipeline.tables import Table
from b3_pipeline.warehouse.copying import WarehouseError, copied
from b3_pipeline.warehouse.exports import (
    ExportError,
    Manifest,
    Partition,
    export_partition,
    manifest_of,
    partitions,
    read,
    sound_and_damaged,
    verify,
)
from b3_pipeline.warehouse.model import DAY_COLUMNS, DIMENSIONS, SCHEMA, WAREHOUSE_TABLES, Dimension, days

EXPORT, OPEN = "export", "open"
#: The steps of a load at which a test ends the process.
STEPS = (
    "warehouse: schema upgraded",
    "warehouse: old rows deleted",
    "warehouse: rows copied",
    "warehouse: load noted",
    "warehouse: partition committed",
)
MIGRATIONS = Path(__file__).with_name("migrations")
_OURS = Schema(
    SCHEMA,
    "The warehouse's schema",
    "the warehouse",
    MIGRATIONS,
    WarehouseError,
    "Take the schema `warehouse` away and run an older release's `b3 warehouse load`: the exports have it all.",
)
head, schema_version = _OURS.head, _OURS.version
_LOCK: LiteralString = "select pg_advisory_xact_lock(hashtext('b3 warehouse'), hashtext(%s))"
_NOTED = ("checksum", "rows", "starts_at", "ends_at", "source", "loaded_at", "seconds")


#: Below the home: for what is exported on the way.
SPOOL = "warehouse"


@dataclass(frozen=True)
class Noted:
    """What `loads` says of a partition; moments are naive UTC."""

    checksum: str
    rows: int
    start: datetime
    end: datetime
    source: str
    loaded_at: datetime
    seconds: float

    @property
    def window(self) -> Window:
        return Window(self.start, self.end)

    def is_of(self, manifest: Manifest) -> bool:
        """Whether it is this export that was loaded."""
        return (self.checksum, self.rows, self.start, self.end) == (
            manifest.checksum,
            manifest.rows,
            manifest.start,
            manifest.end,
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a partition: loaded, unchanged, or damaged, which is why nothing of it was loaded."""

    table: str
    partition: str
    action: str
    rows: int
    bytes: int
    checksum: str
    source: str
    seconds: float = 0.0
    reason: str = ""

    def document(self, exports: Place) -> dict[str, Any]:
        """For JSON; `checksum` is of the rows, `path` where the export lies, null for the open partition."""
        return {
            "table": self.table,
            "name": self.partition,
            "rows": self.rows,
            "bytes": self.bytes,
            "checksum": self.checksum,
            "path": f"{exports.url}/{self.table}" if self.source == EXPORT else None,
            "action": self.action,
            "source": self.source,
            "seconds": round(self.seconds, 3),
            **({"reason": self.reason} if self.reason else {}),
        }


@dataclass(frozen=True)
class _Export:
    """An export of a partition that may have to be loaded: where it is, and what was loaded of the partition before."""

    table: Table
    manifest: Manifest
    place: Place
    source: str
    before: Noted | None

    def outcome(self, action: str, started: float, reason: str = "") -> Outcome:
        """What became of it, since a moment of the monotonic clock."""
        m, seconds = self.manifest, time.monotonic() - started
        return Outcome(self.table.name, m.partition, action, m.rows, m.bytes, m.checksum, self.source, seconds, reason)


@contextmanager
def warehouse(dsn: str) -> Iterator[psycopg.Connection]:
    """A connection for the warehouse, in autocommit. Raises WarehouseError and BadDsn."""
    with _OURS.connected(dsn) as db:
        yield db


def upgrade(dsn: str) -> tuple[str | None, str]:
    """Brings the schema to this release's version, all of it or nothing, and the dimensions up to date.

    One process at a time: others wait. Returns the version before and after. Raises WarehouseError, also when the schema
    is of a newer release.
    """
    after = head()
    with warehouse(dsn) as db:
        before = schema_version(db)
        if before != after:
            _OURS.migrate(dsn)
            reached(STEPS[0])
        with db.transaction():
            db.execute(_LOCK, ("dimensions",))
            _renew(db)
    return before, after


def prepare(dsn: str, home: Path, clock: Callable[[], datetime]) -> None:
    """`upgrade`, with a migration log when the schema has changed. Raises OSError, too."""
    _OURS.log(home, clock, lambda: upgrade(dsn))


def _renew(db: psycopg.Connection) -> None:
    """The calendar, and what our rules say of the feeds and tickers that are known by now."""
    columns = sql.SQL(", ").join(map(sql.Identifier, DAY_COLUMNS))
    db.execute("create temporary table new_days (like warehouse.days) on commit drop")
    with db.cursor().copy(sql.SQL("copy new_days ({}) from stdin").format(columns)) as copy:
        for row in days():
            copy.write_row(row)
    db.execute(
        sql.SQL("insert into warehouse.days ({c}) select {c} from new_days on conflict (day) do {then}").format(
            c=columns, then=_taking("days", DAY_COLUMNS[1:])
        )
    )
    for dimension in DIMENSIONS:
        known = db.execute(sql.SQL("select {} from {}").format(*_names(dimension))).fetchall()
        _describe(db, dimension, [text for (text,) in known])


def _names(dimension: Dimension) -> tuple[sql.Identifier, sql.Identifier]:
    return sql.Identifier(dimension.key), sql.Identifier(SCHEMA, dimension.name)


def _taking(name: str, columns: Sequence[str]) -> sql.Composed:
    """`update …` for an upsert that changes only rows that are other ones."""
    pairs = [sql.SQL("{c} = excluded.{c}").format(c=sql.Identifier(c)) for c in columns]
    differs = [
        sql.SQL("{}.{c} is distinct from excluded.{c}").format(sql.Identifier(name), c=sql.Identifier(c))
        for c in columns
    ]
    return sql.SQL("update set {} where {}").format(sql.SQL(", ").join(pairs), sql.SQL(" or ").join(differs))


def _describe(db: psycopg.Connection, dimension: Dimension, texts: Iterable[str]) -> None:
    columns = (dimension.key, *dimension.columns)
    insert = sql.SQL("insert into {} ({}) values ({}) on conflict ({}) do {}").format(
        _names(dimension)[1],
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join([sql.Placeholder()] * len(columns)),
        sql.Identifier(dimension.key),
        _taking(dimension.name, dimension.columns),
    )
    with db.cursor() as cursor:  # in order, so that two that note the same texts wait for one another only once
        cursor.executemany(insert, [(text, *dimension.describe(text)) for text in sorted(texts)])


def noted(db: psycopg.Connection, table: str) -> dict[str, Noted]:
    """What is loaded of a table, by partition."""
    columns = sql.SQL(", ").join(map(sql.Identifier, _NOTED))
    query = sql.SQL("select partition, {} from warehouse.loads where table_name = %s order by partition").format(
        columns
    )
    return {
        partition: Noted(checksum, rows, _naive(start), _naive(end), source, _naive(at), seconds)
        for partition, checksum, rows, start, end, source, at, seconds in db.execute(query, (table,))
    }


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


@dataclass
class Loading:
    """One load of the warehouse: the exports of some tables, and what QuestDB has in their newest partitions.

    `spool` is a folder of this machine for what is exported on the way; `clock` gives aware UTC.
    """

    dsn: str
    quest: QuestDB
    exports: Place
    spool: Path
    clock: Callable[[], datetime]
    tables: Sequence[Table] = WAREHOUSE_TABLES

    @cached_property
    def _found(self) -> dict[str, tuple[dict[str, Manifest], list[str], Partition | None]]:
        """By table: the exports, the partitions of which none can be read, and the open partition."""
        return {
            table.name: (
                *sound_and_damaged(self.exports, table),
                next((p for p in partitions(self.quest, table) if p.newest), None),
            )
            for table in self.tables
        }

    @property
    def rows(self) -> int:
        """How many rows there are to look at."""
        found = self._found.values()
        return sum(
            sum(m.rows for m in exported.values()) + (newest.rows if newest else 0) for exported, _bad, newest in found
        )

    def run(self, progress: Callable[[int], None] = quiet) -> Iterator[Outcome]:
        """Loads what is new or changed, table by table, oldest partition first; says of each what became of it.

        `progress` is told of rows as they are done. Raises WarehouseError, QuestDBError, PlaceError, OSError.
        """
        for table in self.tables:
            exported, damaged, newest = self._found[table.name]
            for partition in damaged:
                told = "Its manifest cannot be read: `b3 export` makes it anew."
                yield Outcome(table.name, partition, "damaged", 0, 0, "", EXPORT, reason=told)
            with warehouse(self.dsn) as db:
                known = noted(db, table.name)
                for partition, manifest in exported.items():
                    if newest is None or partition != newest.name:  # of the open one QuestDB knows more
                        export = _Export(table, manifest, self.exports, EXPORT, known.get(partition))
                        yield self._load(db, export, progress)
                if newest is not None:
                    with self._open(table, newest, known.get(newest.name)) as export:
                        yield self._load(db, export, progress)

    @contextmanager
    def _open(self, table: Table, newest: Partition, before: Noted | None) -> Iterator[_Export]:
        """The open partition as it is now, exported for the length of the block."""
        self.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="open-", dir=self.spool) as folder:
            here = place(folder)
            manifest = export_partition(self.quest, table, newest, here, self.clock(), self.spool)
            yield _Export(table, manifest, here, OPEN, before)

    def _load(self, db: psycopg.Connection, export: _Export, progress: Callable[[int], None]) -> Outcome:
        started, table, manifest = time.monotonic(), export.table, export.manifest
        if export.before is not None and export.before.is_of(manifest):
            progress(manifest.rows)
            return export.outcome("unchanged", started)
        problems = verify(export.place, manifest)
        if not problems:
            try:
                return self._replaced(db, export, started, progress)
            except ExportError as error:
                problems = [str(error)]
        anew = manifest_of(export.place, table, manifest.partition)
        if anew is not None and anew != manifest:  # an export has taken its files away meanwhile, and put others there
            return self._load(db, dataclasses.replace(export, manifest=anew), progress)
        return export.outcome("damaged", started, " ".join(problems))

    def _replaced(
        self, db: psycopg.Connection, export: _Export, started: float, progress: Callable[[int], None]
    ) -> Outcome:
        """Puts an export in the place of what was loaded before, unless another load has done something meanwhile."""
        table, manifest = export.table, export.manifest
        with db.transaction():
            db.execute(_LOCK, (table.name,))
            if noted(db, table.name).get(manifest.partition) != export.before:
                progress(manifest.rows)
                return export.outcome("unchanged", started, "Another load has just loaded it.")
            replace(db, table, manifest.window, manifest.rows, read(export.place, manifest), progress)
            self._note(db, manifest, export.source, time.monotonic() - started)
        reached(STEPS[4])
        return export.outcome("loaded", started)

    def _note(self, db: psycopg.Connection, manifest: Manifest, source: str, seconds: float) -> None:
        values = {
            "table_name": manifest.table,
            "partition": manifest.partition,
            "checksum": manifest.checksum,
            "rows": manifest.rows,
            "starts_at": manifest.start.replace(tzinfo=UTC),
            "ends_at": manifest.end.replace(tzinfo=UTC),
            "source": source,
            "exported_at": manifest.exported_at.replace(tzinfo=UTC),
            "loaded_at": self.clock(),
            "seconds": seconds,
            "release": version("b3-pipeline"),
        }
        insert = sql.SQL(
            "insert into warehouse.loads ({}) values ({}) on conflict (table_name, partition) do {}"
        ).format(
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join([sql.Placeholder()] * len(values)),
            _taking("loads", list(values)[2:]),
        )
        db.execute(insert, list(values.values()))
        reached(STEPS[3])


def replace(
    db: psycopg.Connection,
    table: Table,
    window: Window,
    expected: int,
    pieces: Iterable[pa.Table],
    progress: Callable[[int], None] = quiet,
) -> None:
    """Puts rows in the place of all that a table of the warehouse has in a window, within the caller's transaction.

    Raises WarehouseError when they are not as many as expected, ExportError when an export cannot be read.
    """
    name = sql.Identifier(SCHEMA, table.name)
    bounds = [moment.replace(tzinfo=UTC) for moment in window.bounds()]
    db.execute(sql.SQL("delete from {} where ts >= %s and ts < %s").format(name), bounds)
    reached(STEPS[1])
    columns = sql.SQL(", ").join(sql.Identifier(c.name) for c in table.columns)
    with db.cursor() as cursor:
        with cursor.copy(sql.SQL("copy {} ({}) from stdin").format(name, columns)) as copy:
            for piece in pieces:
                copy.write(copied(piece))
                progress(piece.num_rows)
        if cursor.rowcount != expected:
            raise WarehouseError(
                f"{table.name}: {cursor.rowcount} rows came instead of {expected}; nothing was changed."
            )
    reached(STEPS[2])
    for dimension in DIMENSIONS:
        if dimension.key in table.arrow_schema().names:
            new = sql.SQL(
                "select distinct {k} from {t} where ts >= %s and ts < %s and not exists "
                "(select from {d} known where known.{k} = {t}.{k})"
            ).format(k=sql.Identifier(dimension.key), t=name, d=_names(dimension)[1])
            _describe(db, dimension, [text for (text,) in db.execute(new, bounds) if text is not None])
