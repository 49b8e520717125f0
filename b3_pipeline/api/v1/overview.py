"""The overview: everything that the page needs, asked of the store in a handful of queries and made one document.

What a table gave is kept until the table changes (its transaction number says so), so that a quiet minute costs one
small question each time. What lies beside the tables (checks, sources, marked gaps) is read off the event loop, now and
then, while the last known goes out.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import time as clocks
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any, Generic, LiteralString, TypeVar

from starlette.responses import Response

from b3_pipeline.api.service import Service
from b3_pipeline.api.sharing import Answer
from b3_pipeline.api.v1 import figures
from b3_pipeline.api.v1.answers import MEDIA_TYPE, aged, known, tag_of
from b3_pipeline.api.v1.models import Curve, Dataset, KnownSignal, Overview, Settlement
from b3_pipeline.choosing import rank
from b3_pipeline.metrics import files, instruments
from b3_pipeline.quality.bounds import FUTURE
from b3_pipeline.quality.finding import Context
from b3_pipeline.quality.freshness import Freshness, judged
from b3_pipeline.quality.gaps import is_excused, series_of
from b3_pipeline.quality.of_home import context_of
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.services import known_engines
from b3_pipeline.sessions import session_of, to_local, to_utc
from b3_pipeline.sources.catalog import Source
from b3_pipeline.tables import MARKET_TABLES, TABLES, Table
from b3_pipeline.warehouse.known import last_signals

T = TypeVar("T")
Row = dict[str, Any]

QUESTION = "overview"
#: A table that does not change is asked again after so long: rows dated ahead of now come into view.
ASKED_AGAIN_S = 5
#: What lies beside the tables is read again after so long.
HOME_S, MISMATCHES_S, SIGNALS_S = 5.0, 1.0, 15.0
#: So many signals are shown.
SIGNALS = 10
#: More than two sessions of a report (some 155 contracts each), whatever other feeds have beside it.
_SETTLEMENTS, _CAPTURES, _INDICATORS, _BEFORE = 700, 100, 100, 12
_SURFACE_ROWS = 20_000

_SLUGS = tuple(figure.of for figure in figures.RATES)
_SETTLED = (
    "select ts, instrument, contract_month, price_settlement, price_prev, trade_date, settlement_rate, open_interest, "
    "feed from b3_adjustments where ts <= %s order by ts desc limit %s"
)
_CAPTURED_PRICES = (
    "select ts, instrument, contract_month, price_settlement, price_settlement_prev, feed from b3_snapshots "
    "where ts <= %s and feed != 'composed' order by ts desc limit %s"
)
_DAILY = (
    "select ts, indicator, value, feed from b3_indicators_daily "
    "where ts <= %s and indicator in (%s, %s, %s, %s) order by ts desc limit %s"
)
_CAPTURED_INDICATORS = (
    "select ts, name, value, feed from b3_indicators where ts <= %s and feed != 'composed' order by ts desc limit %s"
)
_LEVELS = (
    "select ts, instrument, call_wall, put_wall, gamma_flip, status, feed from b3_gamma_levels where ts <= %s "
    "latest on ts partition by instrument, feed"
)

_LABELS = {
    "b3_adjustments": "Ajustes",
    "b3_indicators_daily": "Indicadores diários",
    "b3_vol_surface": "Superfície de volatilidade",
    "b3_dxy_ticks": "DXY",
    "b3_gamma_levels": "Níveis de gamma",
    "b3_snapshots": "Capturas: preços",
    "b3_indicators": "Capturas: indicadores",
    "b3_captures": "Capturas: documentos",
}
_FEEDS = {
    "b3_sprd": "B3, boletim de preços",
    "b3_indicators": "B3, indicadores financeiros",
    "b3_vol_xlsx": "B3, superfície de volatilidade",
    "yahoo_dxy": "Yahoo Finance",
    "gammalevels": "provedor de gamma",
    "legacy_capture": "coletor legado",
    "legacy_csv": "arquivos legados",
    "composed": "captura composta",
}
_log = logging.getLogger(__name__)


class Slowly(Generic[T]):
    """What may be some seconds old: the last known is given at once, and asked for anew beside that when it is due.

    Where asking fails the last known stays; without one it raises what asking raised.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[T]], every_s: float, clock: Callable[[], float] = clocks.monotonic
    ) -> None:
        self._ask, self._every_s, self._clock = ask, every_s, clock
        self._known: tuple[T, float] | None = None
        self._asking: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The last known, or the first."""
        if self._known and self._clock() - self._known[1] < self._every_s:
            return self._known[0]
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._renew())
            self._asking.add_done_callback(_retrieved)
        return self._known[0] if self._known else await asyncio.shield(self._asking)

    async def _renew(self) -> T:
        asked_at = self._clock()
        try:
            found = await self._ask()
        except Exception:
            if self._known:  # it is asked again, but not at once
                self._known = self._known[0], asked_at
            raise
        self._known = found, asked_at
        return found


def _retrieved(task: asyncio.Task[Any]) -> None:
    """Nobody may be waiting for it any more."""
    if not task.cancelled() and (error := task.exception()):
        _log.debug("not read beside the tables: %s", type(error).__name__)


@dataclass(frozen=True)
class Beside:
    """What lies beside the tables: what checks look at, and how each check of a table ended the last time."""

    context: Context
    checks: Mapping[str, Mapping[str, bool]]

    def freshness(self, table: Table, feeds: Mapping[str, tuple[int, datetime | None]], now: datetime) -> Freshness:
        """How fresh a table is, as its check judges it."""

        def excused(source: Source, session: date) -> bool:
            return is_excused(self.context, table, source, session)

        return judged(feeds, table, self.context.live, now, excused)


@dataclass(frozen=True)
class Feed:
    """The rows of a feed in a table; its newest moment, and the newest that is not ahead of now (naive UTC)."""

    rows: int
    newest: datetime | None
    known: datetime | None


Feeds = dict[str, Feed]


@dataclass
class Rendered:
    """The overview as it goes out. The tag is of all but `at` and the ages: it changes when the data does."""

    document: Overview
    body: bytes
    tag: str
    zipped: bytes | None = None

    def compressed(self) -> bytes:
        """The body in gzip, made once for all who want it so."""
        if self.zipped is None:
            self.zipped = gzip.compress(self.body, 5, mtime=0)
        return self.zipped


class Board:
    """The overview of one service: asks, keeps what did not change, and renders."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._parts: dict[str, tuple[Hashable, Any]] = {}
        self._results: dict[str, tuple[Sequence[Sequence[Row]], Hashable, Any]] = {}
        self._beside = Slowly(self._read_beside, HOME_S)
        self._differed: int | None = None
        self._mismatches = Slowly(self._count_mismatches, MISMATCHES_S)
        self._known_signals: list[KnownSignal] | None = None
        self._signals = Slowly(self._ask_signals, SIGNALS_S)

    async def beside(self) -> Beside:
        """What lies beside the tables, some seconds old at most."""
        return await self._beside.get()

    async def mismatches(self) -> int | None:
        """How many payload mismatches nobody has looked at; while that cannot be told the last known, or None."""
        return await self._mismatches.get()

    async def _count_mismatches(self) -> int | None:
        """A failure is an answer, too: nobody's overview waits for PostgreSQL again before it is due."""
        if self._service.postgres_dsn is not None:
            try:
                self._differed = await self._service.mismatches()
            except Exception as error:
                _log.debug("mismatches are not counted: %s", type(error).__name__)
        return self._differed

    async def signals(self) -> list[KnownSignal] | None:
        """The last signals of the warehouse; while it cannot be asked the last known, or None."""
        return await self._signals.get()

    async def _ask_signals(self) -> list[KnownSignal] | None:
        """A failure is an answer here, too: see `_count_mismatches`."""
        if (dsn := self._service.reader_dsn or self._service.postgres_dsn) is not None:
            try:
                rows = await asyncio.to_thread(last_signals, dsn, self._service.now(), SIGNALS)
                self._known_signals = None if rows is None else [figures.known_signal(row) for row in rows]
            except Exception as error:
                _log.debug("signals are not known: %s", type(error).__name__)
        return self._known_signals

    async def render(self) -> Rendered:
        """The overview of this moment. Raises StoreAway."""
        document = await self.make()
        ages = {"at": True, "kpis": {"__all__": {"age_s"}}, "datasets": {"__all__": {"age_s"}}}
        tag = tag_of(document.model_dump_json(exclude=ages).encode())
        return Rendered(document, document.model_dump_json().encode(), tag)

    async def make(self) -> Overview:
        """The document. Raises StoreAway."""
        beside, now = await self.beside(), self._service.now()
        stamps = await self.stamps(now)
        counts, mismatches, signals = await asyncio.gather(self.feeds(stamps, now), self.mismatches(), self.signals())
        naive = now.astimezone(UTC).replace(tzinfo=None)
        session, expected, until = _dxy_day(beside.context.live, naive, counts["b3_dxy_ticks"])
        adjustments, snapshots, daily, captured, surface, gamma, ticks, before = await asyncio.gather(
            self._newest("b3_adjustments", stamps, _SETTLED, naive, _SETTLEMENTS),
            self._newest("b3_snapshots", stamps, _CAPTURED_PRICES, naive, _CAPTURES),
            self._newest("b3_indicators_daily", stamps, _DAILY, naive, *_SLUGS, _INDICATORS),
            self._newest("b3_indicators", stamps, _CAPTURED_INDICATORS, naive, _CAPTURES),
            self._surface(stamps, counts["b3_vol_surface"]),
            self._newest("b3_gamma_levels", stamps, _LEVELS, naive),
            self._ticks(stamps, session, naive),
            self._ticks_before(stamps, session, naive),
        )
        tables = {t.name: beside.freshness(t, _judgeable(counts[t.name]), now) for t in MARKET_TABLES}
        settled, curve, curve_before = self._made("settlements", _settled, adjustments)
        day = to_local(now).date()
        values = [
            *self._made("prices", lambda *rows: _prices(day, *rows), adjustments, snapshots, of=day),
            *self._made("rates", _rates, daily, captured),
            (figures.DXY, figures.dxy_value(ticks, before)),
        ]
        return Overview(
            at=now,
            session=session_of(day),
            phase=self._service.phase,  # pyright: ignore[reportArgumentType] (a flag has no other)
            kpis=[figures.kpi(figure, value, now, tables) for figure, value in values],
            di_curve=curve,
            di_curve_before=curve_before,
            settlements=settled,
            surface=self._made("surface", figures.surface, surface),
            gamma=self._made("gamma", figures.gamma, gamma),
            dxy=figures.dxy(ticks, session, expected, until),
            datasets=[Dataset(**self.dataset_fields(t, tables[t.name], counts[t.name], beside)) for t in MARKET_TABLES],
            mismatches=mismatches,
            signals=signals,
            dagster_url=self._service.dagster_url,
        )

    def dataset_fields(self, table: Table, found: Freshness, stored: Collection[str], beside: Beside) -> dict[str, Any]:
        """How a table stands; `stored` are the feeds that it has rows of."""
        checks = beside.checks.get(table.name, {})
        brought = sorted({*stored, *(feed.feed for feed in found.feeds)}, key=lambda feed: (rank(feed), feed))
        return {
            "table": table.name,
            "label": _LABELS.get(table.name, table.name),
            "rows": found.rows,
            "newest": found.newest and figures.aware(found.newest),
            "age_s": None if found.age_s is None else round(found.age_s, 1),
            "due": found.due and figures.aware(found.due),
            "fresh": found.fresh,
            "source": ", ".join(_FEEDS.get(feed, feed) for feed in brought) or "nenhuma ainda",
            "checks_passed": sum(checks.values()),
            "checks_failed": sorted(name for name, passed in checks.items() if not passed),
            "dagster_url": f"{self._service.dagster_url}/assets/{table.name}",
        }

    async def stamps(self, now: datetime) -> dict[str, Hashable]:
        """What says, by table, whether it may have changed since. A table that is not there has none."""
        beat = int(now.timestamp() / ASKED_AGAIN_S)
        found = await self._service.store.rows("select name, writerTxn txn from wal_tables()")
        return {row["name"]: (row["txn"], beat) for row in found}

    async def feeds(self, stamps: Mapping[str, Hashable], now: datetime) -> dict[str, Feeds]:
        """The feeds of each market table."""
        found = await asyncio.gather(
            *(self._part(f"feeds of {t.name}", stamps.get(t.name), self._ask_feeds, t, now) for t in MARKET_TABLES)
        )
        return {t.name: feeds or {} for t, feeds in zip(MARKET_TABLES, found, strict=True)}

    async def _ask_feeds(self, table: Table, now: datetime) -> Feeds:
        naive = now.astimezone(UTC).replace(tzinfo=None)
        counted = named("select feed, count() n, max(ts) newest, max(ts) known from {t} group by feed", t=table.name)
        rows = await self._service.store.rows(counted)
        if any(row["newest"] > naive for row in rows if row["newest"]):  # asked first without, for that is quicker
            ahead = named(
                "select feed, count() n, max(case when ts <= %s then ts end) newest, "
                "max(case when ts <= %s then ts end) known from {t} group by feed",
                t=table.name,
            )
            rows = await self._service.store.rows(ahead, naive + FUTURE, naive)
        return {row["feed"]: Feed(row["n"], row["newest"], row["known"]) for row in rows}

    async def _newest(
        self, table: str, stamps: Mapping[str, Hashable], query: LiteralString, *values: Any
    ) -> list[Row]:
        """What a question gives of a table; the same list as before where that did not change."""
        return await self._part(f"newest of {table}", stamps.get(table), self._service.store.rows, query, *values) or []

    async def _surface(self, stamps: Mapping[str, Hashable], feeds: Feeds) -> list[Row]:
        """The rows of the surface that counts: that of the latest session, of the feed that takes precedence."""
        moments = ({"feed": feed, "ts": found.known} for feed, found in feeds.items() if found.known)
        found = figures.best((figures.session_of_row(row), row) for row in moments)
        if found is None:
            return []
        query = named(
            "select ts, contract_month, delta_bucket, volatility, updated_at, feed from {t} "
            "where ts = %s and feed = %s limit %s",
            t="b3_vol_surface",
        )
        moment, feed = found[1]["ts"], found[1]["feed"]
        stamp = stamps.get("b3_vol_surface")
        return await self._part("surface", stamp, self._service.store.rows, query, moment, feed, _SURFACE_ROWS) or []

    async def _ticks(self, stamps: Mapping[str, Hashable], session: date | None, now: datetime) -> list[Row]:
        if session is None:
            return []
        query = named(
            "select ts, bucket, value, feed from {t} where ts >= %s and ts <= %s order by ts", t="b3_dxy_ticks"
        )
        end = min(now, to_utc(datetime.combine(session, time.max)))
        stamp = stamps.get("b3_dxy_ticks"), session
        return await self._part("ticks", stamp, self._service.store.rows, query, _midnight(session), end) or []

    async def _ticks_before(self, stamps: Mapping[str, Hashable], session: date | None, now: datetime) -> list[Row]:
        """The last readings before a session's day."""
        query = named(
            "select ts, bucket, value, feed from {t} where ts < %s and value is not null order by ts desc limit %s",
            t="b3_dxy_ticks",
        )
        end = now if session is None else _midnight(session)
        stamp = stamps.get("b3_dxy_ticks"), session
        return await self._part("ticks before", stamp, self._service.store.rows, query, end, _BEFORE) or []

    async def _part(self, name: str, stamp: Hashable, ask: Callable[..., Awaitable[Any]], *values: Any) -> Any:
        """What was asked under this stamp, or asked now; None where there is nothing to ask (no stamp)."""
        if stamp is None or (isinstance(stamp, tuple) and stamp[0] is None):
            return None
        there = self._parts.get(name)
        if there and there[0] == stamp:
            return there[1]
        found = await ask(*values)
        if there and there[1] == found:
            found = there[1]  # what is made of it stays, too
        self._parts[name] = stamp, found
        return found

    def _made(self, name: str, make: Callable[..., T], *rows: Sequence[Row], of: Hashable = None) -> T:
        """What is made of rows: of the same ones (and `of` the same day) it is not made again."""
        there = self._results.get(name)
        if there and there[1] == of and all(a is b for a, b in zip(there[0], rows, strict=True)):
            return there[2]
        result = make(*rows)
        self._results[name] = rows, of, result
        return result

    async def _read_beside(self) -> Beside:
        return await asyncio.to_thread(_beside, self._service)


def _beside(service: Service) -> Beside:
    """Reads files and PostgreSQL: not for the event loop."""
    settings = service.settings
    session_of(date(2025, 1, 2))  # the calendar takes a second to be made, once
    db = QuestDB(known_engines(settings).questdb)  # it is not asked here
    return Beside(context_of(settings, db, (), service.postgres_dsn, service.flags), last_checks(service))


def last_checks(service: Service) -> dict[str, dict[str, bool]]:
    """How each check ended the last time, by table and name, as processes have counted it. Reads files."""
    folder = service.settings.home / files.FOLDER
    found: dict[str, dict[str, bool]] = {}
    try:
        metrics = list(files.read(folder)) if folder.is_dir() else []
    except OSError:
        return found
    for metric in metrics:
        for sample in metric.samples if metric.name == instruments.CHECK_PASSED.name else ():
            labels = sample.labels
            found.setdefault(labels["table"], {})[labels["check"]] = sample.value == 1
    return found


def _settled(rows: Sequence[Row]) -> tuple[list[Settlement], Curve | None, Curve | None]:
    found = figures.settlements(rows)
    return found.shown, figures.curve(found.whole), figures.curve(found.before)


def _prices(
    day: date, adjustments: Sequence[Row], snapshots: Sequence[Row]
) -> list[tuple[figures.Figure, figures.Value | None]]:
    return [(f, figures.price_of(f.of, day, adjustments, snapshots)) for f in figures.PRICES]


def _rates(daily: Sequence[Row], captured: Sequence[Row]) -> list[tuple[figures.Figure, figures.Value | None]]:
    return [(f, figures.indicator_of(f.of, daily, captured)) for f in figures.RATES]


def _judgeable(feeds: Feeds) -> dict[str, tuple[int, datetime | None]]:
    return {name: (feed.rows, feed.newest) for name, feed in feeds.items()}


def _midnight(day: date) -> datetime:
    """The first moment of a local day's readings, naive UTC: one in the morning, for some midnights never were."""
    return to_utc(datetime.combine(day, time(1)))


def _dxy_day(live: Sequence[Source], now: datetime, feeds: Feeds) -> tuple[date | None, dict[str, time], datetime]:
    """Whose day the dollar index is shown of, its buckets by local time, and up to when (naive UTC) they should be there.

    It is the day of the newest reading, or a later session of which some should be there by now.
    """
    newest = max((feed.known for feed in feeds.values() if feed.known), default=None)
    shown = to_local(newest).date() if newest else None
    series = sorted(series_of(TABLES["b3_dxy_ticks"], live), key=lambda one: rank(one.feed))
    for one in series:
        due = one.source.due if one.source in live and one.source else None
        if due and due.age is not None:
            until = due.expected(now)
            session = session_of(to_local(until).date())
            return max(filter(None, (shown, session))), dict(one.buckets), until
    return shown, dict(series[-1].buckets), now


def board(service: Service) -> Board:
    """The service's one board."""
    found = vars(service).get("_board")
    if found is None:
        found = vars(service)["_board"] = Board(service)
    return found


async def answered(service: Service) -> Answer[Rendered]:
    """The overview, at most 200 ms old, or the last known while QuestDB is away. Raises StoreAway where there is none."""
    return await service.shared.get(QUESTION, board(service).render)


async def overview(service: Service) -> Overview:
    """The document, for the page. Raises StoreAway."""
    return (await answered(service)).value.document


class Prepared(Response):
    """A response whose headers are encoded already."""

    def __init__(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self.status_code, self.body, self.raw_headers, self.background = status, body, headers, None


async def response(service: Service, if_none_match: str | None, accept_encoding: str) -> Response:
    """The overview as it goes out: nothing is made for one request that others have had made. Raises StoreAway."""
    rendered: Rendered | None = service.shared.fresh(QUESTION)
    headers: list[tuple[bytes, bytes]] = []
    if rendered is None:
        answer = await answered(service)
        rendered = answer.value
        headers = [(name.lower().encode(), value.encode()) for name, value in aged(answer).items()]
    headers += [
        (b"etag", rendered.tag.encode()),
        (b"cache-control", b"no-cache"),
        (b"vary", b"Accept-Encoding"),
    ]
    if known(if_none_match, rendered.tag):
        return Prepared(304, b"", headers)
    body = rendered.body
    if "gzip" in accept_encoding:
        body = rendered.compressed()
        headers.append((b"content-encoding", b"gzip"))
    headers += [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    return Prepared(200, body, headers)
