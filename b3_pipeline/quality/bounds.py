"""Rows that the contract does not allow, or finds odd: out of bounds, falling numbers, null keys, days without session.

The server looks for them, so that any number of rows is fine; `tables.py` says what is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import reduce
from itertools import combinations, islice
from typing import Any

import numpy as np

from b3_pipeline import sessions
from b3_pipeline.loading.census import census
from b3_pipeline.quality.finding import SHOWN, Context, located
from b3_pipeline.quality.stored import Condition, condition, count, during, first_rows, one_of
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.sessions import Window, is_session
from b3_pipeline.tables import Bounds, Column, Range, Table

#: What is dated so much later than now is of the future; less may be a clock, or a zone.
FUTURE = timedelta(days=1)


@dataclass(frozen=True)
class Rule:
    """What a row must keep, in words; the rows that break it; the columns that show it."""

    what: str
    broken: Condition
    columns: tuple[str, ...]


def hard_rules(db: QuestDB, table: Table) -> Iterator[Rule]:
    """What no row may break: key columns are given, numbers lie in their hard bounds, hard ascents do not fall."""
    for key in table.keys:
        if key != table.timestamp:
            yield Rule(f"{key} is given", condition("{k} is null", k=key), (key,))
    for column in table.columns:
        if column.hard:
            yield from _in_bounds(db, table, column, column.hard)
    yield from _ascents(table, hard=True)


def soft_rules(db: QuestDB, table: Table) -> Iterator[Rule]:
    """What is stored and named when it is broken: soft bounds, soft ascents."""
    for column in table.columns:
        if column.soft:
            yield from _in_bounds(db, table, column, column.soft)
    yield from _ascents(table, hard=False)


def broken(context: Context, table: Table, rule: Rule, window: Window) -> tuple[int, list[dict[str, Any]]]:
    """How many rows of a window break a rule, and the first of them."""
    where = during(table, window) & rule.broken
    rows = count(context.db, table, where)
    columns = [*table.keys, *rule.columns]
    shown = first_rows(context.db, table, columns, where, SHOWN) if rows else []
    return rows, [{"rule": rule.what, **located(table, row)} for row in shown]


def off_sessions(context: Context, table: Table, window: Window) -> tuple[int, list[dict[str, Any]]]:
    """How many rows of a window lie on local days that are no session, and the first of them."""
    counts: dict[date, int] = {}
    for some in census(context.db, table, window):
        counts[some.day] = counts.get(some.day, 0) + some.rows
    odd = {day: rows for day, rows in counts.items() if not is_session(day)}
    on_days = (
        {"rule": "its day is a session", **located(table, row)}
        for day in sorted(odd)
        for row in first_rows(context.db, table, table.keys, during(table, _day(day)), SHOWN)
    )
    return sum(odd.values()), list(islice(on_days, SHOWN))


def of_the_future(context: Context, table: Table, window: Window) -> tuple[int, list[dict[str, Any]]]:
    """How many rows of a window are of a day that is still to come, and the first of them."""
    latest = context.now.replace(tzinfo=None) + FUTURE
    where = during(table, window) & condition("{ts} > %s", latest, ts=table.timestamp)
    rows = count(context.db, table, where)
    shown = first_rows(context.db, table, table.keys, where, SHOWN) if rows else []
    return rows, [{"rule": "it is not of the future", **located(table, row)} for row in shown]


def _day(day: date) -> Window:
    """The time of one local day."""
    after = day + timedelta(days=1)
    return Window(sessions.window(day, day).start, sessions.window(after, after).start)


def _in_bounds(db: QuestDB, table: Table, column: Column, bounds: Bounds) -> Iterator[Rule]:
    """One rule for all rows, or one for each range that values of the column `bounds_by` have."""
    if not column.bounds_by or not bounds.by:
        groups: dict[Range, Condition | None] = {bounds.every: None}
    else:
        groups = _groups(db, table, column, bounds)
    for allowed, rows in groups.items():
        outside = _outside(column.name, allowed)
        if outside is not None:
            shown = (column.name,)
            yield Rule(f"{column.name} in {allowed}", outside if rows is None else rows & outside, shown)


def _groups(db: QuestDB, table: Table, column: Column, bounds: Bounds) -> dict[Range, Condition | None]:
    """Which rows have which range: asked of the values that are there, for `bounds_as` is no matter of SQL."""
    by = column.bounds_by or ""
    found = [row[0] for row in db.query(named("select distinct {by} from {t}", by=by, t=table.name))]
    values: dict[Range, list[str | None]] = {}
    for value in found:
        allowed = bounds.of(None if value is None else column.bounds_as(value))
        values.setdefault(allowed, []).append(value)
    return {allowed: one_of(by, some) for allowed, some in values.items()}


def _outside(column: str, allowed: Range) -> Condition | None:
    """The numbers outside a range; None when there are none (QuestDB stores no infinity: it is null)."""
    parts = []
    if np.isfinite(allowed.low):
        parts.append(condition("{c} <= %s" if allowed.low_open else "{c} < %s", float(allowed.low), c=column))
    if np.isfinite(allowed.high):
        parts.append(condition("{c} >= %s" if allowed.high_open else "{c} > %s", float(allowed.high), c=column))
    return condition("{c} is not null", c=column) & reduce(Condition.__or__, parts) if parts else None


def _ascents(table: Table, *, hard: bool) -> Iterator[Rule]:
    for ascent in table.ascending:
        if ascent.hard == hard:
            falls = [_falls(low, high) for low, high in combinations(ascent.columns, 2)]
            yield Rule(str(ascent), reduce(Condition.__or__, falls), ascent.columns)


def _falls(low: str, high: str) -> Condition:
    """Both are given, and the first is the greater."""
    return condition("{a} is not null and {b} is not null and {a} > {b}", a=low, b=high)
