"""Asking a table: conditions whose values are bound, counts and rows that meet them, stretches of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from typing import Any, LiteralString

from psycopg import sql

from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.tables import Table

#: Rows grouped by key at once on the server.
_GROUPED_AT_ONCE = 5_000_000
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Condition:
    """What follows `where`, and the values that it binds, in order."""

    text: sql.Composed
    values: tuple[Any, ...] = ()

    def __and__(self, other: Condition) -> Condition:
        return self._joined(other, " and ")

    def __or__(self, other: Condition) -> Condition:
        return self._joined(other, " or ")

    def _joined(self, other: Condition, word: LiteralString) -> Condition:
        both = sql.SQL("({}" + word + "{})").format(self.text, other.text)
        return Condition(both, self.values + other.values)


def condition(text: LiteralString, *values: Any, **names: str) -> Condition:
    """A condition with quoted names and bound values: `condition("{c} > %s", 3, c="value")`."""
    return Condition(named(text, **names), values)


def one_of(column: str, values: Sequence[str | None]) -> Condition:
    """The column has one of these values, of which None is null."""
    given = [v for v in values if v is not None]
    parts = [condition("{c} is null", c=column)] if len(given) < len(values) else []
    if given:
        marks = sql.SQL(", ").join([sql.Placeholder()] * len(given))
        parts.append(Condition(sql.SQL("{} in ({})").format(sql.Identifier(column), marks), tuple(given)))
    return reduce(Condition.__or__, parts)


def during(table: Table, window: Window) -> Condition:
    """The table's time lies in the window."""
    parts = [condition("{ts} is not null", ts=table.timestamp)] if window == ALWAYS else []
    if window.start is not None:
        parts.append(condition("{ts} >= %s", window.start, ts=table.timestamp))
    if window.end is not None:
        parts.append(condition("{ts} < %s", window.end, ts=table.timestamp))
    return reduce(Condition.__and__, parts)


def of_feed(feed: str) -> Condition:
    """The rows of one feed."""
    return condition("{feed} = %s", feed, feed="feed")


def count(db: QuestDB, table: Table, where: Condition) -> int:
    """How many rows meet a condition."""
    return db.scalar(named("select count() from {t} where ", t=table.name) + where.text, *where.values)


def first_rows(db: QuestDB, table: Table, columns: Sequence[str], where: Condition, most: int) -> list[dict[str, Any]]:
    """The first rows that meet a condition, by time."""
    columns = list(dict.fromkeys(columns))
    query = named("select {columns} from {t} where ", columns=columns, t=table.name)
    tail = named(" order by {ts} limit ", ts=table.timestamp) + sql.Literal(most)
    return [dict(zip(columns, row, strict=True)) for row in db.query(query + where.text + tail, *where.values)]


def stretches(db: QuestDB, table: Table, limit: int, within: Window, where: Condition) -> Iterator[tuple[Window, int]]:
    """Windows that tile `within`, in time's order, with the number of rows in each that meet the condition.

    None has more than `limit`, but for a single moment, which cannot be split.
    """
    ask = during(table, within) & where
    query = named("select count(), min({ts}), max({ts}) from {t} where ", ts=table.timestamp, t=table.name)
    rows, first, last = db.query(query + ask.text, *ask.values)[0]
    if rows > limit and first != last:
        middle = first + (last - first) // 2 + _MICROSECOND
        yield from stretches(db, table, limit, Window(within.start, middle), where)
        yield from stretches(db, table, limit, Window(middle, within.end), where)
    else:
        yield within, rows


def partition_of(table: Table, moment: datetime) -> str:
    """QuestDB's name of the partition that a moment (UTC) lies in: 2025-10 or 2025-10-13."""
    return moment.strftime("%Y-%m" if table.partition_by == "MONTH" else "%Y-%m-%d")


def partition_window(table: Table, name: str) -> Window:
    """The time of a partition of QuestDB's."""
    if table.partition_by == "DAY":
        start = datetime.strptime(name, "%Y-%m-%d")  # noqa: DTZ007 (naive UTC, as everything stored)
        return Window(start, start + timedelta(days=1))
    start = datetime.strptime(name, "%Y-%m")  # noqa: DTZ007
    return Window(start, (start + timedelta(days=32)).replace(day=1))


def repeated_keys(table: Table, where: Condition) -> Condition:
    """`from …` for the keys that more than one of the rows that meet a condition has, with `n`, the number of rows."""
    text = named("from (select {keys}, count() n from {t} where ", keys=table.keys, t=table.name)
    return Condition(text + where.text + named(" group by {keys}) where n > 1", keys=table.keys), where.values)


def grouped(db: QuestDB, table: Table, within: Window) -> Iterator[Condition]:
    """Conditions that tile a window, each with no more rows than the server may group by key at once."""
    for stretch, rows in stretches(db, table, _GROUPED_AT_ONCE, within, during(table, ALWAYS)):
        if rows:
            yield during(table, stretch)


def doubled_partitions(db: QuestDB, table: Table) -> set[str]:
    """QuestDB's names of the partitions that have a key twice."""
    names: set[str] = set()
    for where in grouped(db, table, ALWAYS):
        twice = repeated_keys(table, where)
        days = db.query(
            named("select distinct timestamp_floor('d', {ts}) ", ts=table.timestamp) + twice.text, *twice.values
        )
        names |= {partition_of(table, day) for (day,) in days}
    return names


def keyless(table: Table) -> Condition:
    """The rows without one of their keys, as no load writes them."""
    keys = [key for key in table.keys if key != table.timestamp]
    return reduce(Condition.__or__, [condition("{k} is null", k=key) for key in keys])


def keyless_partitions(db: QuestDB, table: Table) -> set[str]:
    """QuestDB's names of the partitions that have rows without one of their keys."""
    where = keyless(table)
    query = named("select distinct timestamp_floor('d', {ts}) from {t} where ", ts=table.timestamp, t=table.name)
    return {partition_of(table, day) for (day,) in db.query(query + where.text, *where.values)}


def feeds_stored(db: QuestDB, table: Table, window: Window) -> list[str]:
    """The feeds that have rows in a window."""
    where = during(table, window)
    rows = db.query(named("select distinct feed from {t} where ", t=table.name) + where.text, *where.values)
    return sorted(feed for (feed,) in rows if feed is not None)
