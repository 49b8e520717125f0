"""Whether the warehouse has what it should: asked by retention before it drops a partition, by the checks, by people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from b3_pipeline.tables import TABLES, Table
from b3_pipeline.warehouse.checksums import Checksum
from b3_pipeline.warehouse.copying import rows_of
from b3_pipeline.warehouse.exports import Manifest
from b3_pipeline.warehouse.loading import OPEN, Noted, noted, schema_version, warehouse
from b3_pipeline.warehouse.model import SCHEMA


def loaded(dsn: str, table: str, partition: str, checksum: str) -> bool:
    """Whether the warehouse has exactly this export of a partition: its rows are read back and summed up.

    Raises WarehouseError when PostgreSQL does not answer: then nobody knows.
    """
    with warehouse(dsn) as db, _unchanging(db):
        found = noted(db, table).get(partition) if schema_version(db) else None
        if found is None or found.checksum != checksum:
            return False
        return _checksum(db, TABLES[table], found) == checksum


@contextmanager
def _unchanging(db: psycopg.Connection) -> Iterator[None]:
    """All that is asked within the block is of one moment."""
    with db.transaction():
        db.execute("set transaction isolation level repeatable read, read only")
        yield


def _checksum(db: psycopg.Connection, table: Table, about: Noted | Manifest) -> str:
    found = Checksum(table)
    for piece in rows_of(db, table, about.window):
        found.add(piece)
    return found.text()


@dataclass(frozen=True)
class Difference:
    """A partition of which the warehouse has something else than it should; texts for people."""

    partition: str
    expected: str
    found: str


def behind(noted: Mapping[str, Noted], exported: Mapping[str, Manifest]) -> list[str]:
    """The partitions whose exports are not loaded, or not as they are now."""
    return [name for name, manifest in exported.items() if _expected(noted.get(name), manifest) is manifest]


def _expected(noted: Noted | None, manifest: Manifest | None) -> Noted | Manifest | None:
    """What the warehouse should have of a partition: its export, if that was not loaded; else what was noted.

    A partition that was loaded as the open one after it had been exported has rows that the export has not.
    """
    if noted is None or manifest is None:
        return noted or manifest
    newer = noted.source == OPEN and noted.loaded_at >= manifest.exported_at
    return noted if newer or noted.is_of(manifest) else manifest


def rows_that_differ(db: psycopg.Connection, table: Table, exported: Mapping[str, Manifest]) -> list[Difference]:
    """The partitions that have not as many rows as their export; rows of no partition count as one of its own, `-`."""
    known, counts = noted(db, table.name), _counts(db, table)
    differences = []
    for name in sorted({*known, *exported}):
        expected, found = _expected(known.get(name), exported.get(name)), counts.get(name, 0)
        if expected is not None and expected.rows != found:
            differences.append(Difference(name, f"{expected.rows} rows", f"{found} rows"))
    all_rows = sql.SQL("select count(*) from {}").format(sql.Identifier(SCHEMA, table.name))
    [(total,)] = db.execute(all_rows).fetchall()
    if total != sum(counts.values()):
        differences.append(Difference("-", "no rows", f"{total - sum(counts.values())} rows"))
    return differences


def _counts(db: psycopg.Connection, table: Table) -> dict[str, int]:
    """How many rows each partition that was loaded has now."""
    query = sql.SQL(
        "select l.partition, (select count(*) from {} t where t.ts >= l.starts_at and t.ts < l.ends_at) "
        "from warehouse.loads l where l.table_name = %s"
    ).format(sql.Identifier(SCHEMA, table.name))
    return dict(db.execute(query, (table.name,)).fetchall())


def content_that_differs(db: psycopg.Connection, table: Table, exported: Mapping[str, Manifest]) -> list[Difference]:
    """The partitions whose rows, read back, do not have the checksum of their export."""
    known = noted(db, table.name)
    differences = []
    for name in sorted({*known, *exported}):
        expected = _expected(known.get(name), exported.get(name))
        if expected is not None and (found := _checksum(db, table, expected)) != expected.checksum:
            differences.append(Difference(name, expected.checksum, found))
    return differences


@dataclass(frozen=True)
class Standing:
    """How a table of the warehouse stands: its rows and partitions, when it was loaded last (naive UTC), what is to come.

    `behind` are the partitions whose exports are not loaded as they are now.
    """

    table: str
    rows: int
    partitions: int
    newest: str | None
    loaded_at: datetime | None
    behind: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def standing(db: psycopg.Connection, table: Table, exported: Mapping[str, Manifest]) -> Standing:
    """How a table stands; where there is no warehouse yet, everything that is exported is to come."""
    known = noted(db, table.name) if schema_version(db) else {}
    rows = sum(_counts(db, table).values()) if known else 0
    at = max((each.loaded_at for each in known.values()), default=None)
    return Standing(table.name, rows, len(known), max(known, default=None), at, tuple(behind(known, exported)))
