"""The comparisons of the legacy captures with the composed ones, kept in PostgreSQL: what a cutover is decided by."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import LiteralString

from psycopg.types.json import Jsonb

from b3_pipeline.capture_differences import Comparison, Difference
from b3_pipeline.errors import B3Error
from b3_pipeline.postgres.connections import connected

_DDL: tuple[LiteralString, ...] = (
    "create table if not exists b3.capture_comparisons (at timestamptz not null, session date not null, "
    "legacy_sha256 text not null, composed_sha256 text not null, fields integer not null, different integer not null, "
    "differences jsonb not null, primary key (legacy_sha256, composed_sha256))",
)


class ComparisonsError(B3Error):
    """PostgreSQL cannot keep or give comparisons."""


_connected = partial(connected, error=ComparisonsError, what="a comparison", ddl=_DDL)


def record(dsn: str, comparison: Comparison) -> bool:
    """Keeps a comparison; False when these two documents were compared before, and what is kept stays.

    Raises ComparisonsError when PostgreSQL does not keep it.
    """
    insert = (
        "insert into b3.capture_comparisons "
        "(at, session, legacy_sha256, composed_sha256, fields, different, differences) "
        "values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing"
    )
    c = comparison
    found = Jsonb([asdict(difference) for difference in c.differences])
    values = (c.at, c.session, c.legacy_sha256, c.composed_sha256, c.fields, c.different, found)
    with _connected(dsn) as db:
        return db.execute(insert, values).rowcount == 1


def latest(dsn: str, limit: int = 30) -> list[Comparison]:
    """The comparisons that were made last, newest first. Raises ComparisonsError when PostgreSQL does not answer."""
    query = (
        "select at, session, legacy_sha256, composed_sha256, fields, differences from b3.capture_comparisons "
        "order by at desc, legacy_sha256, composed_sha256 limit %s"
    )
    with _connected(dsn) as db:
        return [
            Comparison(at, session, legacy, composed, fields, tuple(Difference(**given) for given in found))
            for at, session, legacy, composed, fields, found in db.execute(query, (limit,)).fetchall()
        ]
