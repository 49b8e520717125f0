"""Gaps: the sessions, buckets and captures that a feed should have by now and has not; and those that nobody misses.

They are found by counting on the server, one question a table and feed; of a session that is short, its buckets are asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Any

import numpy as np

from b3_pipeline.parsing.legacy_csv import DXY
from b3_pipeline.postgres.known_gaps import GapKey
from b3_pipeline.quality.finding import Context
from b3_pipeline.quality.stored import Condition, condition, during, feeds_stored, of_feed, one_of
from b3_pipeline.questdb.client import named
from b3_pipeline.sessions import (
    ALWAYS,
    Window,
    session_after,
    session_before,
    session_of,
    sessions_of,
    to_local,
    to_utc,
    window,
)
from b3_pipeline.settings import LOCAL_ZONE, KnownGap
from b3_pipeline.sources.catalog import SOURCES, Source
from b3_pipeline.tables import TABLES, Table

_CAPTURES, _TICKS, _GAMMA = (TABLES[name] for name in ("b3_captures", "b3_dxy_ticks", "b3_gamma_levels"))
_DAY = np.timedelta64(1, "D")
_MICROSECOND = timedelta(microseconds=1)


def known_gaps(declared: Iterable[KnownGap]) -> Mapping[str, Sequence[Window]]:
    """The gaps that are declared in the settings, by feed, as `Context.known_gaps` has them."""
    gaps: dict[str, list[Window]] = {}
    for gap in declared:
        gaps.setdefault(gap.feed, []).append(window(gap.first, gap.last))
    return gaps


@dataclass(frozen=True)
class Gap:
    """What a feed misses of a session in a table: all of it, or a `part`, which is a bucket or an endpoint.

    `available_until` is the last day on which the source is known to give it still; None when no source gives what is
    past.
    """

    feed: str
    table: str
    session: date
    part: str = ""
    available_until: date | None = None

    @property
    def key(self) -> GapKey:
        return GapKey(self.feed, self.table, self.session, self.part)

    def sessions_left(self, today: date) -> int | None:
        """For how many sessions after this day the source still gives it: 0 today only, None when it does not."""
        if self.available_until is None or self.available_until < today:
            return None
        left, day = 0, today
        while (day := session_after(day)) <= self.available_until:
            left += 1
        return left

    def document(self, today: date) -> dict[str, Any]:
        """For JSON and tables."""
        about = {"feed": self.feed, "table": self.table, "session": self.session, "part": self.part}
        return {**about, "available_until": self.available_until, "sessions_left": self.sessions_left(today)}


@dataclass(frozen=True)
class Series:
    """What a source brings into a table, session by session; `source` is None for a feed that no source of ours brings.

    Any row of a session will do, unless it has to have `buckets`: their local times by name. Of the captures a source
    brings those of one `endpoint`.
    """

    table: Table
    feed: str
    source: Source | None = None
    endpoint: str = ""
    buckets: Mapping[str, time] = field(default_factory=dict)

    @property
    def rows(self) -> Condition:
        """Which rows of the table it is."""
        rows = of_feed(self.feed)
        if self.endpoint:
            rows &= condition("endpoint = %s", self.endpoint)
        return rows & one_of("bucket", list(self.buckets)) if self.buckets else rows

    def gap(self, session: date, bucket: str = "") -> Gap:
        part = bucket or self.endpoint
        return Gap(self.feed, self.table.name, session, part, available_until(self.source, session))


def available_until(source: Source | None, session: date) -> date | None:
    """The last day on which a source gives what it has of a session; None where there is none to be asked."""
    return None if source is None or source.fetch is None else _sessions_later(session, source.sessions_kept)


@lru_cache(maxsize=10_000)
def _sessions_later(session: date, sessions: int) -> date:
    for _ in range(sessions):
        session = session_after(session)
    return session


def series_of(table: Table, sources: Iterable[Source] = ()) -> list[Series]:
    """What the sources bring into a table: each as the settings have it, where it is among `sources`."""
    every = {**SOURCES, **{source.name: source for source in sources}}
    return [
        Series(table, source.kind.feed, source, _endpoint(table, source), _buckets(table, source))
        for source in every.values()
        if table.name in source.kind.tables
    ]


def _endpoint(table: Table, source: Source) -> str:
    if table is not _CAPTURES:
        return ""
    return "gamma" if _GAMMA.name in source.kind.tables else "ultimo-dado"


def _buckets(table: Table, source: Source) -> dict[str, time]:
    """The buckets that a session of ticks has: those of the legacy file, else those that are due of the source, where it has such."""
    if table is not _TICKS:
        return {}
    if source.fetch is None:
        return {record.constants["bucket"]: record.at for record in DXY.records if record.at}
    times, due = source.times, source.due
    if times is None or due is None or due.until is None:
        return {}
    day = date(2000, 1, 3)
    first, last = (datetime.combine(day, at) for at in (times.start, due.until))
    grid = (first + n * times.every for n in range((last - first) // times.every + 1))
    return {f"dxy_{at:%Hh%M}": at.time() for at in grid}


def find(context: Context, table: Table, within: Window = ALWAYS, feed: str | None = None) -> list[Gap]:
    """The gaps of a table's feeds (or of one) within a window, marked ones too, by session.

    A feed is missed from its first row to what is due by now, but for declared ranges and what a retention has taken.
    """
    there = [name for name in feeds_stored(context.db, table, ALWAYS) if feed in (None, name)]
    series = [each for each in series_of(table, context.live) if each.feed in there]
    ours = {each.feed for each in series}
    series += (Series(table, name) for name in there if name not in ours)
    found = (gap for each in series for gap in _missing(context, each, within))
    return sorted(found, key=lambda gap: (gap.session, gap.feed, gap.part))


def _missing(context: Context, series: Series, within: Window) -> Iterator[Gap]:
    start = _first(context, series)
    if start is None:
        return
    due = _due(context, series)
    first, last = (session_of(to_local(moment).date()) for moment in (start, due))
    there = _counts(context, series, within)
    for session in _expected(first, last, within):
        wanted = list(series.buckets)
        if wanted and session in (first, last):
            wanted = [name for name, at in series.buckets.items() if start <= _moment(session, at) <= due]
        stored = there.get(session, 0)
        short = stored < len(wanted) if series.buckets else not stored
        if short and not _is_known(context, series, session):
            yield from _short(context, series, session, wanted) if stored else [series.gap(session)]


def _first(context: Context, series: Series) -> datetime | None:
    """The moment (naive UTC) of the first row."""
    query = named("select {ts} from {t} where ", ts=series.table.timestamp, t=series.table.name)
    where = during(series.table, ALWAYS) & series.rows
    rows = context.db.query(
        query + where.text + named(" order by {ts} limit 1", ts=series.table.timestamp), *where.values
    )
    return rows[0][0] if rows else None


def _due(context: Context, series: Series) -> datetime:
    """Up to which moment (naive UTC) all must be there by now. What nobody collects is due when its session is over."""
    now = context.now.replace(tzinfo=None)
    live = series.source is not None and series.source.name in {source.name for source in context.live}
    rule = series.source.due if series.source and live else None
    if rule is None:
        return _end(session_before(to_local(now).date()))
    expected = rule.expected(now)
    return expected if rule.age is not None else _end(session_of(to_local(expected).date()))


def _end(session: date) -> datetime:
    """The last moment (naive UTC) of a session's own day."""
    return _moment(session, time.max)


def _moment(session: date, at: time) -> datetime:
    """A local time of a session's own day, naive UTC."""
    return to_utc(datetime.combine(session, at))


def _counts(context: Context, series: Series, within: Window) -> dict[date, int]:
    """By session, how many buckets its best day has (or rows, where those are not asked for)."""
    ts = series.table.timestamp
    counted = named("count_distinct(bucket)") if series.buckets else named("count()")
    where = during(series.table, within) & series.rows
    query = named("select timestamp_floor('d', to_timezone({ts}, %s)) d, ", ts=ts) + counted
    query += named(" from {t} where ", t=series.table.name) + where.text + named(" group by d order by d")
    rows = context.db.query(query, LOCAL_ZONE, *where.values)
    days = sessions_of(np.array([day for day, _n in rows], "datetime64[D]")).tolist() if rows else []
    best: dict[date, int] = {}
    for session, (_day, count) in zip(days, rows, strict=True):
        best[session] = max(count, best.get(session, 0))
    return best


def _expected(first: date, last: date, within: Window) -> list[date]:
    """The sessions from one day's to another's that lie in a window."""
    if within.start is not None:
        first = max(first, to_local(within.start).date())
    if within.end is not None:
        last = min(last, to_local(within.end - _MICROSECOND).date())
    days = np.arange(np.datetime64(session_of(first)), np.datetime64(last) + _DAY)
    return np.unique(sessions_of(days)).tolist() if len(days) else []


def _is_known(context: Context, series: Series, session: date) -> bool:
    """Whether a session is declared as missing, or a retention has taken it."""
    known = (*context.known_gaps.get(series.feed, ()), *context.expired.get(series.table.name, ()))
    moment = np.array([window(session, session).start], "datetime64[us]") if known else np.array([])
    return any(gap.mask(moment)[0] for gap in known)


def is_excused(context: Context, table: Table, source: Source, session: date) -> bool:
    """Whether nobody expects anything of a source for a session: it is declared as missing, or marked as a whole."""
    series = next(each for each in series_of(table, [source]) if each.source == source)
    return _is_known(context, series, session) or series.gap(session).key in context.marked_gaps


def _short(context: Context, series: Series, session: date, wanted: Sequence[str]) -> Iterator[Gap]:
    """The wanted buckets that a session has not; one gap for all of them when it has none."""
    where = during(series.table, window(session, session)) & series.rows
    query = named("select distinct bucket from {t} where ", t=series.table.name)
    there = {bucket for (bucket,) in context.db.query(query + where.text, *where.values)}
    missing = [bucket for bucket in wanted if bucket not in there]
    if len(missing) == len(wanted):
        yield series.gap(session)
    else:
        yield from (series.gap(session, bucket) for bucket in missing)


def most_urgent_first(gaps: Iterable[Gap], today: date) -> list[Gap]:
    """Those that a source still gives first, by how long; then the others; each by session."""

    def urgency(gap: Gap) -> tuple[Any, ...]:
        until = gap.available_until
        gone = until is None or until < today
        return gone, date.max if gone else until, gap.session, gap.table, gap.feed, gap.part

    return sorted(gaps, key=urgency)


def together(gaps: Iterable[Gap]) -> list[list[Gap]]:
    """The gaps of one feed, table and session in one list each, in the order of their first."""
    groups: dict[tuple[str, str, date], list[Gap]] = {}
    for gap in gaps:
        groups.setdefault((gap.feed, gap.table, gap.session), []).append(gap)
    return list(groups.values())


def parts(gaps: Sequence[Gap]) -> str:
    """The parts of gaps that are together, for people: `dxy_08h50 … dxy_12h00 (39)`."""
    names = [gap.part for gap in gaps if gap.part]
    return ", ".join(names) if len(names) < 4 else f"{names[0]} … {names[-1]} ({len(names)})"


def advice(gaps: Sequence[Gap], today: date) -> str:
    """What to do about open gaps, the most urgent of them with its deadline."""
    [first, *_] = most_urgent_first(gaps, today)
    what = "`b3 gaps --repair` looks in the archive, the shadow files and at the sources, and marks as known what none has."
    left = first.sessions_left(today)
    if left is None:
        return what
    return f"{what} {first.feed} has {first.session} until {first.available_until}: {left} sessions left."
