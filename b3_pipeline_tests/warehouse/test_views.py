"""What was known at a signal's moment, and the days in short: views and functions of a real PostgreSQL."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from b3_pipeline.choosing import LEGACY_FEEDS, front_contract, rank
from b3_pipeline.sessions import Window, session_before, session_of, to_local, trade_date
from b3_pipeline.tables import TABLES, Table
from b3_pipeline.warehouse.loading import replace, upgrade, warehouse
from b3_pipeline.warehouse.model import Asset, asset_of, front_of
from b3_pipeline_tests.warehouse.filled import DELETED, SIGNALS, arrow, signal

ADJUSTMENTS, GAMMA, SURFACE, DXY, SNAPSHOTS = (
    TABLES[f"b3_{name}"] for name in ("adjustments", "gamma_levels", "vol_surface", "dxy_ticks", "snapshots")
)
NOON = datetime(2025, 10, 13, 15)  # 12:00 in Brasília, a Monday


@pytest.fixture
def wh(dsn: str) -> Iterator[psycopg.Connection]:
    """A warehouse with the schema and nothing in it; whatever a test puts there is rolled back."""
    upgrade(dsn)
    with warehouse(dsn) as db, db.transaction(force_rollback=True):
        yield db


def fill(wh: psycopg.Connection, table: Table, *rows: dict[str, Any]) -> None:
    replace(wh, table, Window(), len(rows), [arrow(table, rows)])


def asked(wh: psycopg.Connection, query: Any, *values: object) -> list[dict[str, Any]]:
    with wh.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, values or None).fetchall()


def settlement(ts: datetime, price: float, session: date, feed: str = "b3_sprd", **more: Any) -> dict[str, Any]:
    row = {"ts": ts, "instrument": "DOL", "contract_month": "X25", "price_settlement": price, "price_prev": price - 1}
    return row | {"trade_date": session, "feed": feed} | more


# Tickers and fronts


@pytest.mark.parametrize(
    ("ticker", "asset"),
    [
        ("WINZ25", Asset("future", instrument="WIN", contract_month="Z25")),
        ("DOLX25", Asset("future", instrument="DOL", contract_month="X25")),
        ("DI1F27", Asset("future", instrument="DI1", contract_month="F27")),
        ("PETRK340", Asset("option", "PETR", "call", 11)),
        ("BBASL25", Asset("option", "BBAS", "call", 12)),
        ("BEEFW655", Asset("option", "BEEF", "put", 11)),
        ("ITUBX36", Asset("option", "ITUB", "put", 12)),
        ("VALEA700W2", Asset("option", "VALE", "call", 1)),
        ("PETR4", Asset("share", "PETR")),
        ("TAEE11", Asset("share", "TAEE")),
        ("PETR4F", Asset("share", "PETR")),
        ("petr4", Asset("other")),
        ("", Asset("other")),
    ],
)
def test_a_ticker_says_what_it_is(ticker: str, asset: Asset) -> None:
    assert asset_of(ticker) == asset


def test_on_the_index_the_front_contract_is_of_an_even_month() -> None:
    days = {date(2025, 10, 13): "Z25", date(2025, 11, 3): "Z25", date(2025, 12, 31): "G26", date(2025, 9, 1): "V25"}
    assert {day: front_of("WIN", day) for day in days} == days
    assert all(front_of("DI1", day) == front_contract(day) for day in days)


def test_the_calendar_says_what_our_own_rules_say(wh: psycopg.Connection) -> None:
    for day in (date(2025, 10, 13), date(2025, 10, 12), date(2025, 12, 31), date(2026, 1, 1), date(2026, 2, 17)):
        [row] = asked(wh, "select * from warehouse.days where day = %s", day)
        assert (row["session"], row["previous_session"]) == (session_of(day), session_before(day))
        assert (row["front"], row["index_front"]) == (front_of("DOL", day), front_of("WIN", day))
        earlier = day.replace(day=1) - timedelta(days=1)
        assert (row["front_before"], row["index_front_before"]) == (front_of("DOL", earlier), front_of("WIN", earlier))
    assert asked(wh, "select front_tenor from warehouse.days where day = '2025-10-13'") == [{"front_tenor": "nov-25"}]


@pytest.mark.parametrize("hour", [0, 3, 12, 20, 21, 22])
def test_a_captures_session_is_the_one_that_the_parsers_give_it(wh: psycopg.Connection, hour: int) -> None:
    for day in range(1, 28):
        moment = datetime(2025, 10, day, hour)
        [row] = asked(wh, "select warehouse.captured_session(%s) s", moment.replace(tzinfo=UTC))
        assert row["s"] == trade_date(to_local(moment))


# What was known


def test_a_settlement_counts_from_its_moment_on_and_never_before(wh: psycopg.Connection) -> None:
    evening = datetime(2025, 10, 13, 22, 30)
    friday, monday = date(2025, 10, 10), date(2025, 10, 13)
    fill(wh, ADJUSTMENTS, settlement(evening - timedelta(days=3), 5500.0, friday), settlement(evening, 5510.0, monday))
    at = "select price_settlement, session from warehouse.settlement_at(%s, 'DOL', 'X25')"
    moments = [evening - timedelta(days=4), evening - timedelta(microseconds=1), evening, evening + timedelta(days=99)]
    found = [asked(wh, at, moment.replace(tzinfo=UTC)) for moment in moments]
    assert [[row["price_settlement"] for row in rows] for rows in found] == [[], [5500.0], [5510.0], [5510.0]]


def test_of_one_session_the_live_feed_counts_though_the_legacy_row_came_later(wh: psycopg.Connection) -> None:
    friday = date(2025, 10, 10)
    live = settlement(datetime(2025, 10, 10, 22, 30), 5500.0, friday)
    legacy = settlement(datetime(2025, 10, 13, 12, 49), 5500.5, friday, "legacy_csv")
    fill(wh, ADJUSTMENTS, live, legacy)
    at = "select feed from warehouse.settlement_at(%s, 'DOL', 'X25')"
    assert asked(wh, at, NOON.replace(tzinfo=UTC)) == [{"feed": "b3_sprd"}]
    fill(wh, ADJUSTMENTS, legacy)
    assert asked(wh, at, NOON.replace(tzinfo=UTC)) == [{"feed": "legacy_csv"}]


def test_a_captures_price_is_known_before_the_legacy_file_has_it(wh: psycopg.Connection) -> None:
    capture = {
        "ts": datetime(2025, 10, 13, 12),
        "instrument": "DOL",
        "contract_month": "X25",
        "price_settlement": 5501.0,
    }
    composed = {**capture, "ts": datetime(2025, 10, 13, 12, 5), "price_settlement": 1.0, "feed": "composed"}
    fill(wh, SNAPSHOTS, {**capture, "feed": "legacy_capture"}, composed)
    fill(wh, ADJUSTMENTS, settlement(datetime(2025, 10, 9, 22, 30), 5490.0, date(2025, 10, 9)))
    [row] = asked(wh, "select * from warehouse.settlement_at(%s, 'DOL', 'X25')", NOON.replace(tzinfo=UTC))
    assert (row["price_settlement"], row["session"], row["feed"]) == (5501.0, date(2025, 10, 10), "legacy_capture")


def test_when_a_month_begins_the_contract_of_the_month_before_is_what_is_known(wh: psycopg.Connection) -> None:
    old = settlement(datetime(2025, 9, 30, 12, 46), 5485.842, date(2025, 9, 29), "legacy_csv", contract_month="V25")
    fill(wh, ADJUSTMENTS, old)
    at = "select contract_month from warehouse.front_settlement_at(%s, 'DOL')"
    morning = datetime(2025, 10, 1, 12, tzinfo=UTC)
    assert asked(wh, at, morning) == [{"contract_month": "V25"}]
    fill(wh, ADJUSTMENTS, old, settlement(datetime(2025, 9, 30, 22, 30), 5522.0, date(2025, 9, 30)))
    assert asked(wh, at, morning) == [{"contract_month": "X25"}]


def test_any_history_gives_what_a_plain_search_gives(wh: psycopg.Connection) -> None:
    chance = random.Random(11)
    feeds = ("gammalevels", "legacy_csv", "legacy_capture", "composed")
    rows, levels, surfaces = [], [], []
    for minute in chance.sample(range(60 * 24 * 20), 250):
        ts, feed = datetime(2025, 10, 1) + timedelta(minutes=minute), chance.choice(feeds)
        if feed != "composed":
            of = trade_date(to_local(ts)) if feed in LEGACY_FEEDS else session_of(to_local(ts).date())
            rows.append(settlement(ts, float(minute + 1), of, feed))
            surface = {"ts": ts, "contract_month": "nov-25", "delta_bucket": "delta_50", "volatility": 1.0 + minute}
            surfaces.append({**surface, "feed": feed})
        levels.append({"ts": ts, "instrument": "VIX", "call_wall": 1.0 + minute, "feed": feed})
        if chance.random() < 0.3:
            levels.append({"ts": ts, "instrument": "VIX", "call_wall": 0.5 + minute, "feed": chance.choice(feeds)})
    levels = list({(row["ts"], row["feed"]): row for row in levels}.values())
    for table, given in ((ADJUSTMENTS, rows), (GAMMA, levels), (SURFACE, surfaces)):
        fill(wh, table, *given)

    def session(row: dict[str, Any]) -> date:
        local = to_local(row["ts"])
        return trade_date(local) if row["feed"] in LEGACY_FEEDS else local.date()

    for hour in range(0, 24 * 21, 5):
        moment = datetime(2025, 10, 1) + timedelta(hours=hour)
        at = moment.replace(tzinfo=UTC)
        known = [row for row in rows if row["ts"] <= moment]
        # of each feed its newest, of these the latest session, the first in precedence, the last
        newest = {row["feed"]: row for row in sorted(known, key=lambda row: row["ts"])}
        best = max(newest.values(), key=lambda r: (r["trade_date"], -rank(r["feed"]), r["ts"]), default=None)
        found = asked(wh, "select price_settlement p from warehouse.settlement_at(%s, 'DOL', 'X25')", at)
        assert [row["p"] for row in found] == ([best["price_settlement"]] if best else [])
        level = max((r for r in levels if r["ts"] <= moment), key=lambda r: (r["ts"], -rank(r["feed"])), default=None)
        found = asked(wh, "select call_wall from warehouse.gamma_at(%s, 'VIX')", at)
        assert [row["call_wall"] for row in found] == ([level["call_wall"]] if level else [])
        newest = {r["feed"]: r for r in sorted(surfaces, key=lambda r: r["ts"]) if r["ts"] <= moment}
        chosen = max(newest.values(), key=lambda r: (session(r), -rank(r["feed"]), r["ts"]), default=None)
        found = asked(wh, "select known_at, feed from warehouse.surface_at(%s)", at)
        assert [(row["known_at"].replace(tzinfo=None), row["feed"]) for row in found] == (
            [(chosen["ts"], chosen["feed"])] if chosen else []
        )


# Signals


def market(wh: psycopg.Connection) -> None:
    """A little of everything before noon, and of everything after it what nobody may know then."""
    later = NOON + timedelta(hours=1)
    friday = datetime(2025, 10, 10, 22, 30)
    prices = [
        settlement(friday, price, date(2025, 10, 10), instrument=name, contract_month=month)
        for name, month, price in (
            ("DOL", "X25", 5530.0),
            ("DI1", "X25", 99_160.0),
            ("DDI", "X25", 102_600.0),
            ("WIN", "Z25", 142_000.0),
            ("WIN", "G26", 145_000.0),
        )
    ]
    fill(
        wh,
        ADJUSTMENTS,
        *prices,
        *({**p, "ts": later, "trade_date": date(2025, 10, 13), "price_settlement": 1.0} for p in prices),
    )
    levels = [
        {
            "ts": NOON - timedelta(hours=3),
            "instrument": name,
            "call_wall": wall,
            "put_wall": wall - 9,
            "feed": "gammalevels",
        }
        for name, wall in (("ES_SP500", 6700.0), ("VIX", 25.0))
    ]
    fill(wh, GAMMA, *levels, *({**level, "ts": later, "call_wall": 1.0} for level in levels))
    smile = [
        {"ts": friday, "contract_month": tenor, "delta_bucket": delta, "volatility": vol, "feed": "b3_vol_xlsx"}
        for tenor, delta, vol in (
            ("nov-25", "delta_25", 14.8),
            ("nov-25", "delta_50", 12.8),
            ("dez-25", "delta_50", 12.1),
        )
    ]
    fill(wh, SURFACE, *smile, *({**point, "ts": later, "volatility": 1.0} for point in smile))
    tick = {"ts": NOON, "bucket": "dxy_12h00", "value": 0.26, "feed": "yahoo_dxy"}
    fill(wh, DXY, tick, {**tick, "ts": later, "value": 1.0})


def test_a_signal_has_beside_it_what_was_known_at_its_moment(wh: psycopg.Connection) -> None:
    market(wh)
    fill(wh, SIGNALS, signal(NOON, "ITUBX36"), signal(NOON, "WING26"))
    future, option = asked(wh, "select * from warehouse.signals_known order by asset desc")
    for row in (option, future):
        assert (row["dol_contract"], row["dol_settlement"], row["dol_session"]) == ("X25", 5530.0, date(2025, 10, 10))
        assert (row["di1_settlement"], row["ddi_settlement"]) == (99_160.0, 102_600.0)
        assert (row["es_call_wall"], row["vix_call_wall"], row["es_put_wall"]) == (6700.0, 25.0, 6691.0)
        assert (row["vol_tenor"], row["vol_at_the_money"], row["dxy_change"]) == ("nov-25", 12.8, 0.26)
        assert all(row[c] <= row["ts"] for c in row if c.endswith("_known_at") and row[c] is not None)
    assert (option["kind"], option["underlying"], option["option_right"], option["settlement"]) == (
        "option",
        "ITUB",
        "put",
        None,
    )
    assert (future["kind"], future["instrument"], future["contract_month"], future["settlement"]) == (
        "future",
        "WIN",
        "G26",
        145_000.0,
    )


def test_the_long_views_have_a_row_for_each_thing_that_was_known(wh: psycopg.Connection) -> None:
    market(wh)
    fill(wh, SIGNALS, signal(NOON, "WING26"))
    rows = asked(
        wh, "select instrument, contract_month, own, price_settlement p from warehouse.signal_settlements order by 1"
    )
    assert [tuple(row.values()) for row in rows] == [
        ("DDI", "X25", False, 102_600.0),
        ("DI1", "X25", False, 99_160.0),
        ("DOL", "X25", False, 5530.0),
        ("WIN", "G26", True, 145_000.0),
    ]
    assert [r["call_wall"] for r in asked(wh, "select call_wall from warehouse.signal_gamma order by 1")] == [
        25.0,
        6700.0,
    ]
    points = asked(wh, "select tenor, delta_bucket d, volatility v from warehouse.signal_surface order by 1, 2")
    assert [tuple(point.values()) for point in points] == [
        ("dez-25", "delta_50", 12.1),
        ("nov-25", "delta_25", 14.8),
        ("nov-25", "delta_50", 12.8),
    ]


def test_a_signal_about_which_nothing_was_known_is_there_too(wh: psycopg.Connection) -> None:
    fill(wh, SIGNALS, signal(NOON, "?"))
    [row] = asked(wh, "select * from warehouse.signals_known")
    assert (row["asset"], row["kind"], row["dol_settlement"], row["es_call_wall"]) == ("?", "other", None, None)


def test_a_deleted_signal_is_in_no_view(wh: psycopg.Connection) -> None:
    kept, gone = signal(NOON, "PETR4"), signal(NOON, "VALE3")
    fill(wh, SIGNALS, kept, gone)
    fill(wh, DELETED, {**gone, "deleted_at": NOON})
    for view in ("signals", "signals_known"):
        assert asked(wh, f"select asset from warehouse.{view}") == [{"asset": "PETR4"}]


def test_each_day_in_short(wh: psycopg.Connection) -> None:
    market(wh)
    columns = "session, instrument, contract_month, price_settlement, change, contracts"
    rows = asked(wh, f"select {columns} from warehouse.daily_summary where session = '2025-10-10' order by instrument")
    assert [tuple(row.values())[1:] for row in rows] == [
        ("DDI", "X25", 102_600.0, 1.0, 1),
        ("DI1", "X25", 99_160.0, 1.0, 1),
        ("DOL", "X25", 5530.0, 1.0, 1),
        ("WIN", "Z25", 142_000.0, 1.0, 2),
    ]
    [levels] = asked(wh, "select * from warehouse.daily_gamma where instrument = 'VIX'")
    assert (levels["day"], levels["readings"], levels["call_wall"], levels["highest_call_wall"]) == (
        date(2025, 10, 13),
        2,
        1.0,
        25.0,
    )
    [dxy] = asked(wh, "select * from warehouse.daily_dxy")
    assert (dxy["readings"], dxy["first_change"], dxy["last_change"], dxy["highest_change"]) == (2, 0.26, 1.0, 1.0)


# Plans


def test_what_was_known_is_looked_up_and_not_searched_for(wh: psycopg.Connection) -> None:
    start = datetime(2020, 1, 2, 12)
    moments = [start + timedelta(hours=8 * n) for n in range(4_000)]
    fill(
        wh,
        ADJUSTMENTS,
        *(settlement(m, 1.0, m.date(), contract_month=f"X{n % 60 + 10}") for n, m in enumerate(moments)),
    )
    fill(wh, GAMMA, *({"ts": m, "instrument": "VIX", "call_wall": 1.0, "feed": "gammalevels"} for m in moments))
    point = {"contract_month": "nov-25", "delta_bucket": "delta_50", "volatility": 1.0, "feed": "b3_vol_xlsx"}
    fill(wh, SURFACE, *({**point, "ts": m} for m in moments))
    fill(wh, DXY, *({"ts": m, "bucket": "dxy_09h00", "value": 0.1, "feed": "yahoo_dxy"} for m in moments))
    fill(wh, SIGNALS, *(signal(m) for m in moments))
    for table in (ADJUSTMENTS, GAMMA, SURFACE, DXY, SNAPSHOTS, SIGNALS):
        wh.execute(sql.SQL("analyze warehouse.{}").format(sql.Identifier(table.name)))
    query = "explain (analyze, buffers, costs off, timing off) select * from warehouse.signals_known order by ts desc limit 20"
    plan = "\n".join(row["QUERY PLAN"] for row in asked(wh, query))
    for table in (ADJUSTMENTS, GAMMA, SURFACE, DXY):
        assert re.search(rf"Index (?:Only )?Scan (?:Backward )?using {table.name}_pkey", plan), plan
        assert f"Seq Scan on {table.name}" not in plan, plan
    buffers = re.findall(r"Buffers: shared hit=(\d+)", plan)
    assert int(buffers[0]) < 6_000, plan  # some ten pages for each of twenty signals, eight things and four feeds
    assert "Function Scan" not in plan, plan  # each function's body is part of the query
