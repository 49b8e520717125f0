"""The schema `ideas` in PostgreSQL: its versions, and a connection for those who work on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from b3_pipeline.errors import B3Error
from b3_pipeline.lowdb import rules
from b3_pipeline.lowdb.model import SCHEMA, Collection, Record
from b3_pipeline.postgres.migrating import Schema


class IdeasError(B3Error):
    """PostgreSQL does not answer, or refuses what the schema `ideas` needs."""


IDEAS_SCHEMA = Schema(
    SCHEMA,
    "The schema of the ideas",
    "the ideas",
    Path(__file__).with_name("migrations"),
    IdeasError,
    "Take the schema `ideas` away: until the phase is active the LowDB files have it all (`b3 lowdb migrate`).",
)


@contextmanager
def ideas(dsn: str) -> Iterator[psycopg.Connection]:
    """A connection for the ideas, in autocommit; moments are aware UTC. Raises IdeasError and BadDsn."""
    with IDEAS_SCHEMA.connected(dsn) as db:
        yield db


def bound(collection: Collection, record: Record) -> dict[str, Any]:
    """A record's values by the columns of its table, as statements bind them."""
    row = rules.to_row(collection, record)
    return {**row, "extra": Jsonb(row["extra"])}


def identifiers(columns: Sequence[str], of: str | None = None) -> sql.Composed:
    """Columns as a statement names them, one after the other; of a table, where it is given."""
    return sql.SQL(", ").join(sql.Identifier(*([of] if of else []), column) for column in columns)


def upgrade(dsn: str) -> tuple[str | None, str]:
    """Brings the schema to this release's version; the version before and after.

    One process at a time: others wait. Raises IdeasError, also when the schema is of a newer release.
    """
    after = IDEAS_SCHEMA.head()
    with ideas(dsn) as db:
        before = IDEAS_SCHEMA.version(db)
    if before != after:
        IDEAS_SCHEMA.migrate(dsn)
    return before, after


def prepare(dsn: str, home: Path, clock: Callable[[], datetime]) -> None:
    """`upgrade`, with a migration log when the schema has changed. Raises OSError, too."""
    IDEAS_SCHEMA.log(home, clock, lambda: upgrade(dsn))
