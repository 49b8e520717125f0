"""How old each table's data is, against the calendar and by when its sources' data is due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from b3_pipeline.quality.finding import Context, Finding, verdict
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.sessions import Window
from b3_pipeline.sources.catalog import Source
from b3_pipeline.tables import Table


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


def freshness(db: QuestDB, table: Table, live: Iterable[Source], now: datetime) -> Freshness:
    """How fresh a market table is at a moment (aware UTC) when the `live` sources are collected."""
    counted = named("select feed, count(), max({ts}) from {t} group by feed", t=table.name, ts=table.timestamp)
    return judged({feed: (rows, newest) for feed, rows, newest in db.query(counted)}, table, live, now)


def judged(feeds: Mapping[str, tuple[int, datetime]], table: Table, live: Iterable[Source], now: datetime) -> Freshness:
    """`freshness`, from the rows and the newest moment (naive UTC) of each feed."""
    naive = now.replace(tzinfo=None)
    newest = max((moment for _rows, moment in feeds.values()), default=None)
    ages = {
        source.kind.feed: FeedAge(
            source.kind.feed,
            feeds.get(source.kind.feed, (0, None))[1],
            source.due.expected(naive),
            source.due.next(naive),
        )
        for source in live
        if source.due is not None and table.name in source.kind.tables
    }
    age = (naive - newest) / timedelta(seconds=1) if newest is not None else None
    return Freshness(sum(rows for rows, _newest in feeds.values()), newest, age, tuple(ages.values()))


def fresh(table: Table, context: Context, _within: Window) -> Finding:
    """Whether the table has what its live sources should have brought by now; quiet where nobody collects."""
    found = freshness(context.db, table, context.live, context.now)
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
