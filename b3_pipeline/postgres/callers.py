"""Who still calls the legacy routes, kept in PostgreSQL by session: what says when they can be switched off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import LiteralString

from psycopg.rows import class_row

from b3_pipeline.errors import B3Error
from b3_pipeline.postgres.connections import connected

#: The most callers that are given at once.
MOST = 5_000
#: Sessions that are older than the newest by more are forgotten: whoever called then is no reason to keep a route.
KEPT = timedelta(days=400)

_DDL: tuple[LiteralString, ...] = (
    "create table if not exists b3.legacy_callers (session date, address text, agent text, route text, "
    "count bigint not null, first_at timestamptz not null, last_at timestamptz not null, "
    "primary key (session, address, agent, route))",
)


class CallersError(B3Error):
    """PostgreSQL cannot keep or give who called."""


_connected = partial(
    connected, error=CallersError, what="calls", ddl=_DDL, connect_timeout_s=3, statement_timeout_ms=5_000
)


@dataclass(frozen=True)
class Caller:
    """Calls of one route by one address and agent in a session: how many, the first and the last (aware UTC)."""

    session: date
    address: str
    agent: str
    route: str
    count: int
    first_at: datetime
    last_at: datetime


def add(dsn: str, callers: Sequence[Caller]) -> None:
    """Adds calls to those that are kept, all of them or none; the first of a session ends what is too old.

    Raises CallersError.
    """
    if not callers:
        return
    insert: LiteralString = (
        "insert into b3.legacy_callers as kept (session, address, agent, route, count, first_at, last_at) "
        "select session, address, agent, route, sum(count), min(first_at), max(last_at) from "
        "unnest(%s::date[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::timestamptz[], %s::timestamptz[]) "
        "as called (session, address, agent, route, count, first_at, last_at) group by 1, 2, 3, 4 "
        "order by 1, 2, 3, 4 "  # two processes that add at once must not wait for one another crosswise
        "on conflict (session, address, agent, route) do update set count = kept.count + excluded.count, "
        "first_at = least(kept.first_at, excluded.first_at), last_at = greatest(kept.last_at, excluded.last_at)"
    )
    names = ("session", "address", "agent", "route", "count", "first_at", "last_at")
    session = max(caller.session for caller in callers)
    with _connected(dsn) as db, db.transaction():
        [(newest,)] = db.execute("select max(session) from b3.legacy_callers").fetchall()
        db.execute(insert, [[getattr(caller, name) for caller in callers] for name in names])
        if newest is None or session > newest:
            db.execute("delete from b3.legacy_callers where session < %s", (session - KEPT,))


def recent(dsn: str, since: date, limit: int = MOST) -> list[Caller]:
    """Who called in sessions from `since` on, the busiest of the newest session first. Raises CallersError."""
    query: LiteralString = (
        "select session, address, agent, route, count, first_at, last_at from b3.legacy_callers "
        "where session >= %s order by session desc, count desc, address, agent, route limit %s"
    )
    with _connected(dsn) as db, db.cursor(row_factory=class_row(Caller)) as cursor:
        return cursor.execute(query, (since, min(limit, MOST))).fetchall()
