"""Connections to PostgreSQL for what our processes share through it: settings, tables, and what errors may say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import LiteralString

import psycopg

from b3_pipeline.errors import B3Error
from b3_pipeline.postgres.dsn import checked, reason
from b3_pipeline.postgres.roles import set_apart

_SCHEMA: LiteralString = "create schema if not exists b3"
#: Asked of the session, for a connection's `options` would take the place of those that the DSN gives.
#: The answer: whether this user may make tables in the schema b3, or there is none yet.
_SETTINGS: LiteralString = (
    "select coalesce(has_schema_privilege(to_regnamespace('b3'), 'create'), true), "
    "set_config('timezone', 'UTC', false), "
    # where a server has it, compiling a query of many views takes seconds, and running it milliseconds
    "set_config('jit', 'off', false), "
    "set_config('statement_timeout', coalesce(%s, current_setting('statement_timeout')), false)"
)


@contextmanager
def connected(
    dsn: str,
    *,
    error: type[B3Error],
    what: str,
    ddl: Sequence[LiteralString] = (),
    connect_timeout_s: int = 10,
    statement_timeout_ms: int | None = None,
) -> Iterator[psycopg.Connection]:
    """A connection in autocommit whose moments are aware UTC; `ddl` makes what is not there yet, in the schema b3.

    A user who may not make tables there takes what others have made.
    A statement may take as long as the server allows unless `statement_timeout_ms` is given. Raises `error` when
    PostgreSQL does not answer, in time or at all, or refuses `what`; BadDsn when nobody can ask it.
    """
    try:
        with psycopg.connect(checked(dsn), autocommit=True, connect_timeout=connect_timeout_s) as db:
            timeout = None if statement_timeout_ms is None else str(statement_timeout_ms)
            [(may_make, *_)] = db.execute(_SETTINGS, (timeout,)).fetchall()
            if ddl and may_make:
                _make(db, [_SCHEMA])  # by itself: who waits for a table then holds up nobody who makes another
                _make(db, ddl)
            yield db
    except psycopg.OperationalError as failed:
        raise error(
            f"PostgreSQL does not answer: {reason(failed)}. Is it up (`b3 status`), is the setting with its DSN right?"
        ) from None
    except psycopg.Error as failed:
        raise error(f"PostgreSQL refused {what}: {reason(failed)}. May this user use and change schema b3?") from None


def _make(db: psycopg.Connection, ddl: Sequence[LiteralString]) -> None:
    """All or nothing, with the rights on it. IF NOT EXISTS is none for two transactions at once: those of the same DDL wait for one another."""
    with db.transaction():
        db.execute("select pg_advisory_xact_lock(hashtext(%s))", (ddl[0],))
        for statement in ddl:
            db.execute(statement)
        set_apart(db)
