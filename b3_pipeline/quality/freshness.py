"""How old each table's data is, against the calendar and by when its sources' data is due."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from b3_pipeline.quality.bounds import FUTURE
from b3_pipeline.quality.finding import Context, Finding, verdict
from b3_pipeline.quality.gaps import is_excused
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.sessions import Window, session_before, session_of, to_local, to_utc
from b3_pipeline.sources.catalog import Source
from b3_pipeline.tables import Table

#: Whether nothing is expected of a source for a session.
Excused = Callable[[Source, date], bool]


@dataclass(frozen=True)
class FeedAge:
    """A feed of a table: its newest row's moment, which moment it should have reached, when more is due (naive UTC)."""

    feed: str
    newest: datetime | None
    expected: datetime
    due: datetime

    @property
    def fresh(self) -> bool:
        return self.newest is not None and self.newest >= self.expected


@dataclass(frozen=True)
class Freshness:
    """A table's rows, its newest moment (naive UTC) and that one's age, and each feed that a live source is to bring.

    `fresh` is None, and `due` too, where no live source feeds the table: then nothing is expected.
    """

    rows: int
    newest: datetime | None
    age_s: float | None
    feeds: tuple[FeedAge, ...] = ()

    @property
    def fresh(self) -> bool | None:
        return all(feed.fresh for feed in self.feeds) if self.feeds else None

    @property
    def due(self) -> datetime | None:
        """When more is due; of a table that is not fresh, the moment that its newest row should have reached."""
        late = [feed.expected for feed in self.feeds if not feed.fresh]
        return min(late or [feed.due for feed in self.feeds], default=None)


def nothing(_source: Source, _session: date) -> bool:
    """Where everything is expected."""
    return False


def freshness(
    db: QuestDB, table: Table, live: Iterable[Source], now: datetime, excused: Excused = nothing
) -> Freshness:
    """How fresh a market table is at a moment (aware UTC) when the `live` sources are collected.

    A row of the future says nothing of what has come: soft bounds name it.
    """
    counted = named(
        "select feed, count(), max(case when {ts} <= %s then {ts} end) from {t} group by feed",
        t=table.name,
        ts=table.timestamp,
    )
    rows = db.query(counted, now.replace(tzinfo=None) + FUTURE)
    return judged({feed: (rows, newest) for feed, rows, newest in rows}, table, live, now, excused)


def judged(
    feeds: Mapping[str, tuple[int, datetime | None]],
    table: Table,
    live: Iterable[Source],
    now: datetime,
    excused: Excused = nothing,
) -> Freshness:
    """`freshness`, from the rows and the newest moment (naive UTC) of each feed."""
    naive = now.replace(tzinfo=None)
    newest = max((moment for _rows, moment in feeds.values() if moment), default=None)
    ages = {
        source.kind.feed: FeedAge(
            source.kind.feed,
            feeds.get(source.kind.feed, (0, None))[1],
            _expected(source, naive, excused),
            source.due.next(naive),
        )
        for source in live
        if source.due is not None and table.name in source.kind.tables
    }
    age = (naive - newest) / timedelta(seconds=1) if newest is not None else None
    return Freshness(sum(rows for rows, _newest in feeds.values()), newest, age, tuple(ages.values()))


def _expected(source: Source, now: datetime, excused: Excused) -> datetime:
    """The moment that the newest row should have reached; before it come the sessions of which something is expected."""
    assert source.due is not None, "asked of those that have one"
    expected = source.due.expected(now)
    while excused(source, session_of(to_local(expected).date())):
        before = session_before(session_of(to_local(now).date()))
        now = to_utc(datetime.combine(before, time.max))
        expected = source.due.expected(now)
    return expected


def freshness_of(context: Context, table: Table) -> Freshness:
    """How fresh a market table is now, sessions left out that are declared or marked as missing."""

    def excused(source: Source, session: date) -> bool:
        return is_excused(context, table, source, session)

    return freshness(context.db, table, context.live, context.now, excused)


def fresh(table: Table, context: Context, _within: Window) -> Finding:
    """Whether the table has what its live sources should have brought by now; quiet where nobody collects."""
    found = freshness_of(context, table)
    late = [feed for feed in found.feeds if not feed.fresh]
    age = {} if found.age_s is None else {"age_s": round(found.age_s)}
    return verdict(
        len(late),
        {"feeds": len(found.feeds), "late": len(late), **age},
        (
            {
                "partition": "",
                "feed": feed.feed,
                "newest": f"{feed.newest.isoformat()}Z" if feed.newest else "never",
                "expected": f"{feed.expected.isoformat()}Z",
            }
            for feed in late
        ),
        "`b3 status` shows what is due. Is the source away (`b3 doctor`), or the collector (logs/collector.log), or does its sensor "
        "fail (Dagster, Automation)? `b3 collect SOURCE` asks it now.",
    )
