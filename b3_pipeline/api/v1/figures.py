"""The figures of the overview, made of the tables' rows: pure functions, which ask nobody.

Rows are dicts of the tables' columns, times naive UTC as stored. Of several rows for one thing that of the latest session
counts, of one session's that of the feed that takes precedence, of one feed's the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from b3_pipeline.api.v1.models import (
    Curve,
    CurvePoint,
    Dxy,
    DxyPoint,
    GammaLevel,
    KnownLevels,
    KnownSettlement,
    KnownSignal,
    KnownVolatility,
    Kpi,
    Settlement,
    Surface,
)
from b3_pipeline.choosing import LEGACY_FEEDS, front_contract, rank
from b3_pipeline.parsing.months import BadMonth, year_and_month
from b3_pipeline.quality.freshness import Freshness
from b3_pipeline.sessions import bank_days, session_after, session_before, to_local, to_utc, trade_date
from b3_pipeline.tables import indicator_slug

Row = Mapping[str, Any]
#: BRL that a contract gains or loses with a change of one in its price (ANCHORS, the dashboard's field).
PER_CONTRACT = {"DI1": 1.0, "DOL": 50.0, "WDO": 10.0, "WIN": 0.2, "IND": 1.0}
INSTRUMENTS = ("DI1", "DDI", "DOL", "WDO", "WIN", "IND")
#: The futures whose front contracts stand beside a signal.
_FRONTS = ("DOL", "DI1", "DDI")
#: A DI1 pays so many points on its expiry; a year of its rate has so many bank days.
_NOTIONAL, _YEAR = 100_000, 252
#: What a difference of two prices is rounded to: more digits are of binary fractions, not of the exchange.
_DIGITS = 8


def aware(moment: datetime) -> datetime:
    """A stored moment (naive UTC) with its zone."""
    return moment.replace(tzinfo=UTC)


def day_of(value: date | datetime | None) -> date | None:
    """A stored DATE, which comes as a moment, as the day that it is."""
    return value.date() if isinstance(value, datetime) else value


def session_of_row(row: Row, given: date | datetime | None = None) -> date:
    """The session that a value belongs to.

    A row of a legacy feed dates its value by its own collection, so there the time decides: before 18:00 it is the
    session before (FORMATS §3). Of a live one it is what its source says, else the local day of its time.
    """
    if row["feed"] in LEGACY_FEEDS:
        return capture_session(row["ts"])
    return day_of(given) or to_local(row["ts"]).date()


@lru_cache(maxsize=10_000)
def capture_session(moment: datetime) -> date:
    """The session whose settlement a capture of that moment (naive UTC) carries."""
    return trade_date(to_local(moment))


def expiry(contract_month: str) -> date:
    """The expiry of a future: the first session of its month. Raises BadMonth."""
    return _first_session(*year_and_month(contract_month))


@lru_cache(maxsize=2_000)
def _first_session(year: int, month: int) -> date:
    return session_after(date(year, month, 1) - timedelta(days=1))


def di_rate(price: float, session: date, contract_month: str) -> float | None:
    """The rate of a DI1 (% a year of 252 bank days) by its settlement PU; None where that says none, as on its expiry."""
    try:
        remaining = bank_days(session, expiry(contract_month))
    except BadMonth:
        return None
    if remaining <= 0 or not 0 < price < _NOTIONAL:
        return None
    try:
        rate = ((_NOTIONAL / price) ** (_YEAR / remaining) - 1) * 100
    except OverflowError:
        return None
    return round(rate, 4) if math.isfinite(rate) else None


def change_of(value: float | None, previous: float | None) -> float | None:
    """value − previous; None where one of them is missing."""
    return None if value is None or previous is None else round(value - previous, _DIGITS)


def settlement_fields(row: Row, session: date | None, earlier: float | None = None) -> dict[str, Any]:
    """What a row of b3_adjustments says as a Settlement; `earlier` stands in for a previous price that it lacks."""
    instrument, price = row["instrument"], row["price_settlement"]
    previous = row["price_prev"] if row["price_prev"] is not None else earlier
    change, per = change_of(price, previous), PER_CONTRACT.get(instrument)
    rate = row["settlement_rate"]
    if rate is None and instrument == "DI1" and session is not None:
        rate = di_rate(price, session, row["contract_month"])
    return {
        "instrument": instrument,
        "contract_month": row["contract_month"],
        "price": price,
        "previous": previous,
        "change": change,
        "value_per_contract": None if change is None or per is None else round(abs(change) * per, _DIGITS),
        "rate": rate,
        "open_interest": row["open_interest"],
        "session": session,
        "at": aware(row["ts"]),
        "feed": row["feed"],
    }


def best(rows: Iterable[tuple[date, Row]]) -> tuple[date, Row] | None:
    """Of rows for one thing, each with its session, the one that counts."""
    return max(rows, key=lambda found: (found[0], -rank(found[1]["feed"]), found[1]["ts"]), default=None)


class Settled(NamedTuple):
    """The settlements of an overview: instruments in the desk's order, contracts by date.

    `whole` are those of each instrument's session, `before` those of the session before it; `shown` is `whole` with the
    later settlement of each contract that has one, which says by its own session of when it is.
    """

    shown: list[Settlement]
    whole: list[Settlement]
    before: list[Settlement]


_BySession = Mapping[date, Mapping[str, tuple[date, Row]]]


def settlements(rows: Iterable[Row]) -> Settled:
    """The settlements of each instrument's newest whole session, of the one before it, and what is newer than both."""
    chosen: dict[str, dict[date, dict[str, tuple[date, Row]]]] = {}
    for row in rows:
        if row["price_settlement"] is None or not _is_month(row["contract_month"]):
            continue
        session = session_of_row(row, row["trade_date"])
        there = chosen.setdefault(row["instrument"], {}).setdefault(session, {})
        found = best(filter(None, (there.get(row["contract_month"]), (session, row))))
        assert found is not None, "there is a row at least"
        there[row["contract_month"]] = found
    settled = Settled([], [], [])
    for instrument in sorted(chosen, key=_place):
        sessions = chosen[instrument]
        newest = _whole_session(sessions)
        shown = dict(sessions[newest])
        for later in sorted(session for session in sessions if session > newest):
            shown |= sessions[later]
        settled.shown.extend(_in_order(shown, sessions))
        settled.whole.extend(_in_order(sessions[newest], sessions))
        settled.before.extend(_in_order(sessions.get(session_before(newest), {}), sessions))
    return settled


def _whole_session(sessions: _BySession) -> date:
    """The newest session that a live source has brought, all contracts at once; where none has, the newest of all.

    The legacy collector brings one contract of a session, and often before the report does.
    """
    live = [s for s, found in sessions.items() if any(rank(row["feed"]) == 0 for _session, row in found.values())]
    return max(live or sessions)


def _in_order(found: Mapping[str, tuple[date, Row]], sessions: _BySession) -> list[Settlement]:
    def price_before(month: str, session: date) -> float | None:
        earlier = sessions.get(session_before(session), {})
        return earlier[month][1]["price_settlement"] if month in earlier else None

    return [
        Settlement(**settlement_fields(row, session, price_before(month, session)))
        for month, (session, row) in sorted(found.items(), key=lambda item: year_and_month(item[0]))
    ]


def _place(instrument: str) -> tuple[int, str]:
    return INSTRUMENTS.index(instrument) if instrument in INSTRUMENTS else len(INSTRUMENTS), instrument


def _is_month(text: str) -> bool:
    try:
        year_and_month(text)
    except BadMonth:
        return False
    return True


def curve(found: Sequence[Settlement]) -> Curve | None:
    """The DI curve of settlements of one session; None without a rate."""
    points = [
        CurvePoint(contract_month=s.contract_month, expiry=expiry(s.contract_month), rate=s.rate)
        for s in found
        if s.instrument == "DI1" and s.rate is not None
    ]
    session = next((s.session for s in found if s.instrument == "DI1"), None)
    return Curve(session=session, points=points) if points and session else None


@dataclass(frozen=True)
class Figure:
    """A figure at the top of the page: how it is called and written, and which table it is first of."""

    id: str
    label: str
    unit: str
    decimals: int
    table: str
    of: str  # the instrument or indicator


PRICES = tuple(
    Figure(f"{name.lower()}_settlement", f"{name} ajuste", unit, decimals, "b3_adjustments", name)
    for name, unit, decimals in (("DOL", "BRL/1000 USD", 3), ("DI1", "PU", 2), ("DDI", "points", 2))
)
RATES = (
    Figure("selic", "SELIC", "% a.a.", 2, "b3_indicators_daily", "taxa_selic"),
    Figure("sofr", "SOFR", "% a.a.", 2, "b3_indicators_daily", "taxa_sofr"),
    Figure("clean_dollar", "Dólar limpo", "BRL/USD", 4, "b3_indicators_daily", "dolar_cupom_limpo"),
    Figure("casada", "Casada", "BRL/1000 USD", 2, "b3_indicators_daily", "dif_oper_casada"),
)
DXY = Figure("dxy", "DXY agora", "%", 2, "b3_dxy_ticks", "")


@dataclass(frozen=True)
class Value:
    """A figure's value, with the row that it is of; `table` is the one that the row lies in."""

    value: float
    row: Row
    session: date
    table: str
    previous: float | None = None
    contract_month: str | None = None


def price_of(instrument: str, day: date, adjustments: Iterable[Row], snapshots: Iterable[Row]) -> Value | None:
    """The newest settlement of the front contract of a local day (of that which was it then, where this one has none).

    What a capture brought counts as what its CSV row would: the report of a session takes precedence.
    """
    rows = [
        (table, row, row["price_prev"] if table == "b3_adjustments" else row["price_settlement_prev"])
        for table, given in (("b3_adjustments", adjustments), ("b3_snapshots", snapshots))
        for row in given
        if row["instrument"] == instrument and row["price_settlement"] is not None and row["feed"] != "composed"
    ]
    front = front_contract(day)
    of_front = [found for found in rows if found[1]["contract_month"] == front]
    usual = [r for r in rows if r[1]["contract_month"] == front_contract(to_local(r[1]["ts"]).date())]
    candidates = of_front or usual
    found = best((session_of_row(row, row.get("trade_date")), row) for _table, row, _previous in candidates)
    if found is None:
        return None
    session, row = found
    table, _row, previous = next(one for one in candidates if one[1] is row)
    if previous is None:
        before = session_before(session)
        older = best(
            (before, r)
            for _t, r, _p in candidates
            if r["contract_month"] == row["contract_month"] and session_of_row(r, r.get("trade_date")) == before
        )
        previous = older[1]["price_settlement"] if older else None
    return Value(row["price_settlement"], row, session, table, previous, row["contract_month"])


def indicator_of(name: str, daily: Iterable[Row], captured: Iterable[Row]) -> Value | None:
    """The newest value of an indicator, and what the session before had; an older one is no previous value."""
    rows = [("b3_indicators_daily", row) for row in daily if row["indicator"] == name]
    rows += [("b3_indicators", row) for row in captured if indicator_slug(row["name"]) == name]
    dated = [(session_of_row(row), row) for _table, row in rows if row["value"] is not None]
    found = best(dated)
    if found is None:
        return None
    session, row = found
    before = best((s, r) for s, r in dated if s == session_before(session))
    table = next(table for table, one in rows if one is row)
    return Value(row["value"], row, session, table, before[1]["value"] if before else None)


def kpi(figure: Figure, value: Value | None, now: datetime, tables: Mapping[str, Freshness]) -> Kpi:
    """A figure as it stands at a moment (aware UTC). It is as fresh as its own feed, else as its table is."""
    about = {"id": figure.id, "label": figure.label, "unit": figure.unit, "decimals": figure.decimals}
    freshness = tables.get(value.table if value else figure.table)
    fresh = freshness.fresh if freshness else None
    due = freshness.due if freshness else None
    if value is None:
        empty = dict.fromkeys(("value", "previous", "change", "at", "session", "age_s", "feed"))
        return Kpi(**about, **empty, fresh=fresh, due=due and aware(due))
    of_feed = next((one for one in freshness.feeds if one.feed == value.row["feed"]), None) if freshness else None
    if of_feed:
        fresh, due = of_feed.fresh, of_feed.due if of_feed.fresh else of_feed.expected
    at = aware(value.row["ts"])
    return Kpi(
        **about,
        value=value.value,
        previous=value.previous,
        change=change_of(value.value, value.previous),
        contract_month=value.contract_month,
        at=at,
        session=value.session,
        age_s=round((now - at).total_seconds(), 1),
        feed=value.row["feed"],
        fresh=fresh,
        due=due and aware(due),
    )


def surface(rows: Sequence[Row]) -> Surface | None:
    """One surface, of the rows of one feed and moment: tenors by date, deltas by number."""
    values = {
        (row["contract_month"], delta_of(row["delta_bucket"])): row["volatility"]
        for row in rows
        if _is_month(row["contract_month"])
    }
    if not values:
        return None
    tenors = sorted({tenor for tenor, _delta in values}, key=year_and_month)
    deltas = sorted({delta for _tenor, delta in values})
    return Surface(
        at=aware(rows[0]["ts"]),
        updated_at=max(filter(None, (day_of(row["updated_at"]) for row in rows)), default=None),
        feed=rows[0]["feed"],
        tenors=tenors,
        deltas=deltas,
        values=[[values.get((tenor, delta)) for delta in deltas] for tenor in tenors],
    )


def delta_of(bucket: str) -> int:
    """The number in `delta_25`."""
    return int(bucket.removeprefix("delta_"))


def gamma(rows: Iterable[Row]) -> list[GammaLevel]:
    """The newest levels of each instrument, by name."""
    newest: dict[str, Row] = {}
    for row in rows:
        there = newest.get(row["instrument"])
        if there is None or (row["ts"], -rank(row["feed"])) > (there["ts"], -rank(there["feed"])):
            newest[row["instrument"]] = row
    return [gamma_level(newest[name]) for name in sorted(newest)]


def gamma_level(row: Row) -> GammaLevel:
    walls = {name: row[name] for name in ("call_wall", "put_wall", "gamma_flip", "status", "instrument", "feed")}
    return GammaLevel(at=aware(row["ts"]), **walls)


def known_signal(row: Row) -> KnownSignal:
    """A row of the warehouse's `signals_known`, whose moments are aware."""
    own = (row["instrument"], row["contract_month"], "settlement", "settlement")
    fronts = [(name, row[f"{of}_contract"], f"{of}_settlement", of) for name in _FRONTS for of in [name.lower()]]
    settlements = [
        KnownSettlement(
            instrument=name,
            contract_month=month,
            price=row[price],
            session=row[f"{of}_session"],
            at=row[f"{of}_known_at"],
            feed=row[f"{of}_feed"],
        )
        for name, month, price, of in (own, *fronts)
        if row[price] is not None and (price == own[2] or (name, month) != own[:2])
    ]
    levels = [
        KnownLevels(
            instrument=name,
            **{wall: row[f"{of}_{wall}"] for wall in ("call_wall", "put_wall", "gamma_flip")},
            at=row[f"{of}_known_at"],
            feed=row[f"{of}_feed"],
        )
        for name, of in (("ES_SP500", "es"), ("VIX", "vix"))
        if row[f"{of}_known_at"] is not None
    ]
    volatility = None
    if row["vol_at_the_money"] is not None:
        of_tenor = {"tenor": row["vol_tenor"], "value": row["vol_at_the_money"]}
        volatility = KnownVolatility(**of_tenor, at=row["vol_known_at"], feed=row["vol_feed"])
    return KnownSignal(
        at=row["ts"],
        **{name: row[name] for name in ("channel", "signal_type", "asset", "kind", "buy_min", "buy_max", "stop")},
        targets=[row[name] for name in ("target_1", "target_2", "target_final") if row[name] is not None],
        settlements=settlements,
        gamma=levels,
        volatility=volatility,
    )


def dxy(rows: Sequence[Row], session: date | None, expected: Mapping[str, time], until: datetime) -> Dxy:
    """The dollar index of a session's day: each bucket that was read, and null for each one expected that was not.

    `expected` are the buckets of a session by their local times, `until` (naive UTC) is up to when they should be there.
    """
    if session is None:
        return Dxy(session=None, points=[])
    chosen: dict[str, Row] = {}
    for row in rows:
        there = chosen.get(row["bucket"])
        if there is None or (rank(row["feed"]), _minus(row["ts"])) < (rank(there["feed"]), _minus(there["ts"])):
            chosen[row["bucket"]] = row
    moments = {bucket: to_utc(datetime.combine(session, at)) for bucket, at in expected.items()}
    points = {bucket: (at, None) for bucket, at in moments.items() if at <= until}
    points |= {bucket: (row["ts"], row["value"]) for bucket, row in chosen.items()}
    return Dxy(
        session=session,
        points=[
            DxyPoint(at=aware(at), bucket=bucket, value=value)
            for bucket, (at, value) in sorted(points.items(), key=lambda item: (item[1][0], item[0]))
        ],
    )


def _minus(moment: datetime) -> float:
    """What orders moments the other way round."""
    return -moment.replace(tzinfo=UTC).timestamp()


def dxy_value(rows: Sequence[Row], before: Sequence[Row]) -> Value | None:
    """The dollar index now: its last reading, and the last of the session before; `before` are readings of earlier days."""
    last = _last(rows) or _last(before)
    if last is None:
        return None
    day = to_local(last["ts"]).date()
    earlier = _last(row for row in before if to_local(row["ts"]).date() == session_before(day))
    return Value(last["value"], last, day, "b3_dxy_ticks", earlier["value"] if earlier else None)


def _last(rows: Iterable[Row]) -> Row | None:
    found = (row for row in rows if row["value"] is not None)
    return max(found, key=lambda row: (row["ts"], -rank(row["feed"])), default=None)
