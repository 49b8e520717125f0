"""Gaps that nobody can fill, kept in PostgreSQL with who, when and why; and what was tried for those that are open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from b3_pipeline.errors import B3Error
from b3_pipeline.postgres.connections import connected

_DDL: tuple[LiteralString, ...] = (
    "create table if not exists b3.known_gaps (id bigint generated always as identity primary key, feed text not null, "
    "table_name text not null, session date not null, part text not null, why text not null, "
    "tried jsonb not null default '[]', who text not null, marked_at timestamptz not null, unmarked_at timestamptz, "
    "unmarked_by text, unmarked_why text)",
    "create unique index if not exists known_gaps_standing on b3.known_gaps (feed, table_name, session, part) "
    "where unmarked_at is null",
    "create table if not exists b3.gap_attempts (feed text, table_name text, session date, part text, way text, "
    "outcome text not null, detail text not null, times int not null, first_at timestamptz not null, "
    "last_at timestamptz not null, primary key (feed, table_name, session, part, way))",
)
_OF_KEY = " where feed = %s and table_name = %s and session = %s and part = %s"
_SWEEPING = "hashtext('b3.known_gaps: sweep')"


class KnownGapsError(B3Error):
    """Known gaps cannot be read or changed."""


class GapKey(NamedTuple):
    """Which gap: `part` is a bucket or an endpoint, empty where all of the session is missing."""

    feed: str
    table: str
    session: date
    part: str = ""


@dataclass(frozen=True)
class Tried:
    """What came of looking for a gap in one way, the last time and as often as it was the same; moments with zone."""

    way: str
    outcome: str
    detail: str
    times: int
    first_at: datetime
    last_at: datetime

    def document(self) -> dict[str, Any]:
        """For JSON: moments in ISO 8601."""
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Mark:
    """A gap that is known: why, what had been tried for it, who marked it and when (with zone)."""

    feed: str
    table_name: str
    session: date
    part: str
    why: str
    tried: list[dict[str, Any]]
    who: str
    marked_at: datetime

    @property
    def key(self) -> GapKey:
        return GapKey(self.feed, self.table_name, self.session, self.part)


class KnownGaps:
    """The marks of one database. What is unmarked stays in its table, with who, when and why."""

    def __init__(self, db: psycopg.Connection) -> None:
        self._db = db

    def marks(self) -> list[Mark]:
        """The gaps that are known, by session."""
        query = (
            "select feed, table_name, session, part, why, tried, who, marked_at from b3.known_gaps "
            "where unmarked_at is null order by session, feed, table_name, part"
        )
        with self._db.cursor(row_factory=class_row(Mark)) as cursor:
            return cursor.execute(query).fetchall()

    def marked(self) -> frozenset[GapKey]:
        """Which gaps are known, as `Context.marked_gaps` has them."""
        return frozenset(mark.key for mark in self.marks())

    def mark(self, key: GapKey, why: str, who: str, at: datetime) -> bool:
        """Marks a gap as known, with what was tried for it so far; False when it is marked already, which then stays."""
        tried = [each.document() for each in self.tried(key)]
        with self._db.transaction():
            done = self._db.execute(
                "insert into b3.known_gaps (feed, table_name, session, part, why, tried, who, marked_at) "
                "values (%s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
                (*key, why, Jsonb(tried), who, at),
            )
            self.forget(key)
        return done.rowcount > 0

    def unmark(self, key: GapKey, why: str, who: str, at: datetime) -> bool:
        """Takes a mark back; False when there is none."""
        statement = "update b3.known_gaps set unmarked_at = %s, unmarked_by = %s, unmarked_why = %s"
        done = self._db.execute(statement + _OF_KEY + " and unmarked_at is null", (at, who, why, *key))
        return done.rowcount > 0

    def note(self, keys: Sequence[GapKey], way: str, outcome: str, detail: str, at: datetime) -> None:
        """Notes down what came of looking for gaps in one way. The same outcome again is counted, another begins anew."""
        with self._db.cursor() as cursor:
            cursor.executemany(
                "insert into b3.gap_attempts as a values (%s, %s, %s, %s, %s, %s, %s, 1, %s, %s) "
                "on conflict (feed, table_name, session, part, way) do update set "
                "times = case when a.outcome = excluded.outcome then a.times + 1 else 1 end, "
                "first_at = case when a.outcome = excluded.outcome then a.first_at else excluded.first_at end, "
                "outcome = excluded.outcome, detail = excluded.detail, last_at = excluded.last_at",
                [(*key, way, outcome, detail, at, at) for key in keys],
            )

    def tried(self, key: GapKey) -> list[Tried]:
        """What has been tried for a gap since it opened, first things first."""
        query = "select way, outcome, detail, times, first_at, last_at from b3.gap_attempts"
        with self._db.cursor(row_factory=class_row(Tried)) as cursor:
            return cursor.execute(query + _OF_KEY + " order by last_at, way", key).fetchall()

    def forget(self, key: GapKey) -> None:
        """Forgets what was tried for a gap: it is closed."""
        statement = "delete from b3.gap_attempts where feed = %s and table_name = %s and session = %s and part = %s"
        self._db.execute(statement, key)

    def noted(self) -> frozenset[GapKey]:
        """The gaps for which something was tried and that were neither closed nor marked since."""
        rows = self._db.execute("select distinct feed, table_name, session, part from b3.gap_attempts").fetchall()
        return frozenset(GapKey(*row) for row in rows)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One sweep at a time, over all processes. Raises KnownGapsError when another is at it."""
        [free] = self._db.execute(f"select pg_try_advisory_lock({_SWEEPING})").fetchone() or (False,)
        if not free:
            raise KnownGapsError("Another sweep for gaps is at it: wait until it is done.")
        try:
            yield
        finally:
            self._db.execute(f"select pg_advisory_unlock({_SWEEPING})")


@contextmanager
def open_known_gaps(dsn: str) -> Iterator[KnownGaps]:
    """The known gaps of a database; their tables are made when they are not there.

    Raises KnownGapsError when PostgreSQL does not answer or refuses, BadDsn when nobody can ask it.
    """
    with connected(dsn, error=KnownGapsError, what="to keep known gaps", ddl=_DDL) as db:
        yield KnownGaps(db)
