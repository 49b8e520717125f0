"""What a table holds, counted: rows by local day, feed and load."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
from psycopg import sql

from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.sessions import ALWAYS, Window, session_of, sessions_of, to_local, window
from b3_pipeline.settings import LOCAL_ZONE
from b3_pipeline.tables import Table

_IDS_AT_ONCE = 500


@dataclass(frozen=True)
class Count:
    """The rows that one load has on one local day: how many, of which feed, the newest one's time (naive UTC).

    `session` is the one that the day belongs to (`sessions.session_of`).
    """

    day: date
    session: date
    feed: str
    load_id: int
    rows: int
    newest: datetime


def census(db: QuestDB, table: Table, window: Window = ALWAYS) -> list[Count]:
    """Counts a market table's rows within a window, in the order of day, feed and load."""
    counted = db.query(
        named(
            "select timestamp_floor('d', to_timezone({ts}, %s)) d, feed, load_id, count(), max({ts}) from {table} "
            "where {ts} >= %s and {ts} < %s group by d, feed, load_id order by d, feed, load_id",
            table=table.name,
            ts=table.timestamp,
        ),
        LOCAL_ZONE,
        *window.bounds(),
    )
    days = np.array([row[0] for row in counted], dtype="datetime64[D]")
    both = zip(days.tolist(), sessions_of(days).tolist(), counted, strict=True) if counted else ()
    return [Count(day, session, *row[1:]) for day, session, row in both]


def days_of_loads(db: QuestDB, table: Table, loads: Collection[int]) -> Window | None:
    """From the first to the last session in which these loads have rows of a market table; None when they have none."""
    ids = sorted(loads)
    spans = []
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = ids[start : start + _IDS_AT_ONCE]
        query = sql.SQL("select min({ts}), max({ts}) from {table} where load_id in ({ids})").format(
            ts=sql.Identifier(table.timestamp),
            table=sql.Identifier(table.name),
            ids=sql.SQL(", ").join([sql.Placeholder()] * len(some)),
        )
        spans += [span for span in db.query(query, *some) if span[0] is not None]
    if not spans:
        return None
    return window(
        *(session_of(to_local(moment).date()) for moment in (min(s[0] for s in spans), max(s[1] for s in spans)))
    )


def by_session(counts: Iterable[Count]) -> dict[date, list[Count]]:
    """The counts of each session that has any."""
    sessions: dict[date, list[Count]] = {}
    for count in counts:
        sessions.setdefault(count.session, []).append(count)
    return sessions
