"""The figures of the overview, from rows alone."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from b3_pipeline.api.v1 import figures
from b3_pipeline.parsing.settlement_report import parse_settlement_report
from b3_pipeline.quality.freshness import FeedAge, Freshness
from b3_pipeline.tables import TABLES

MORNING, EVENING = datetime(2025, 10, 14, 12), datetime(2025, 10, 13, 22, 30)
NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
DAY = timedelta(days=1)


def settlement(**more: Any) -> dict[str, Any]:
    row = {
        "ts": EVENING,
        "instrument": "DOL",
        "contract_month": "X25",
        "price_settlement": 5500.0,
        "price_prev": 5510.5,
        "trade_date": datetime(2025, 10, 13),
        "settlement_rate": None,
        "open_interest": None,
        "feed": "b3_sprd",
    }
    return {**row, **more}


def test_the_rate_of_a_di1_is_the_exchanges_own_for_its_pu() -> None:
    # SPRD260112: DI1G26 settled at 99176.82, which is 14.897 % a year
    assert figures.di_rate(99176.82, date(2026, 1, 12), "G26") == pytest.approx(14.897, abs=0.0005)


@pytest.mark.parametrize(
    ("report", "session", "tolerance"),
    [
        # on 15 bank days a PU of two decimals is worth 0.8 bp
        ("SPRD260112.zip", date(2026, 1, 12), 0.01),
        # 20 November was made a holiday of the whole country after this report: up to eleven bank days fewer since 2024
        ("SPRD230202.zip", date(2023, 2, 2), 0.05),
    ],
)
def test_each_di1_of_a_report_gets_the_rate_that_the_exchange_gives_it(
    shared: Path, report: str, session: date, tolerance: float
) -> None:
    with (shared / "data" / "b3" / report).open("rb") as stream:
        [chunk] = parse_settlement_report(stream, TABLES["b3_adjustments"])
    rows = [row for row in chunk.records.to_pylist() if row["instrument"] == "DI1" and row["settlement_rate"]]
    assert len(rows) >= 38
    for row in rows:
        rate = figures.di_rate(row["price_settlement"], session, row["contract_month"])
        before_2025 = figures.expiry(row["contract_month"]) < date(2024, 11, 20)
        expected = pytest.approx(row["settlement_rate"], abs=0.01 if before_2025 else tolerance)
        assert rate == expected, row["contract_month"]


def test_the_days_on_which_only_the_exchange_is_closed_count_for_a_rate() -> None:
    # with 24 and 31 December seven bank days remain, without them five: that would be 21.46 %
    pu = round(100_000 / 1.149 ** (7 / 252), 2)
    assert figures.di_rate(pu, date(2025, 12, 22), "F26") == pytest.approx(14.9, abs=0.001)


@pytest.mark.parametrize(
    ("price", "session", "contract"),
    [
        (100_000.0, date(2025, 10, 13), "X25"),
        (99_000.0, date(2025, 11, 3), "X25"),
        (99_000.0, date(2025, 12, 1), "X25"),
        (1e-300, date(2025, 10, 30), "X25"),
        (99_000.0, date(2025, 10, 13), "nothing"),
    ],
)
def test_a_pu_without_a_rate_gives_none(price: float, session: date, contract: str) -> None:
    assert figures.di_rate(price, session, contract) is None


def test_a_contract_expires_on_the_first_session_of_its_month() -> None:
    assert figures.expiry("X25") == date(2025, 11, 3)
    assert figures.expiry("nov-25") == date(2025, 11, 3)
    assert figures.expiry("F26") == date(2026, 1, 2)


@pytest.mark.parametrize(
    ("instrument", "expected"), [("DI1", 10.5), ("DOL", 525), ("WDO", 105), ("WIN", 2.1), ("IND", 10.5), ("DDI", None)]
)
def test_the_value_per_contract_is_the_change_times_what_a_point_is_worth(
    instrument: str, expected: float | None
) -> None:
    found = figures.settlement_fields(settlement(instrument=instrument), date(2025, 10, 13))
    assert (found["change"], found["value_per_contract"]) == (-10.5, expected)


def test_of_two_feeds_settlements_of_one_session_the_report_counts_however_late_the_capture_came() -> None:
    captured = settlement(ts=MORNING, price_settlement=5600.0, feed="legacy_csv")
    [found], whole, before = figures.settlements([captured, settlement()])
    assert (found.price, found.feed, found.session) == (5500.0, "b3_sprd", date(2025, 10, 13))
    assert (whole, before) == ([found], [])


def test_a_lone_row_of_a_later_session_stands_in_its_contracts_place_and_takes_no_other_away() -> None:
    report = [
        settlement(instrument="DI1", contract_month=month, price_settlement=price, settlement_rate=14.9)
        for month, price in (("X25", 99_240.0), ("F26", 97_000.0), ("F27", 85_000.0))
    ]
    lone = settlement(
        instrument="DI1", contract_month="X25", price_settlement=99_300.0, feed="legacy_csv", ts=MORNING + DAY
    )
    shown, whole, _before = figures.settlements([*report, {**lone, "price_prev": None, "trade_date": None}])
    assert [(s.contract_month, s.price, s.session) for s in shown] == [
        ("X25", 99_300.0, date(2025, 10, 14)),
        ("F26", 97_000.0, date(2025, 10, 13)),
        ("F27", 85_000.0, date(2025, 10, 13)),
    ]
    assert (shown[0].previous, shown[0].feed) == (99_240.0, "legacy_csv")
    curve = figures.curve(whole)
    assert curve is not None
    assert (curve.session, len(curve.points)) == (date(2025, 10, 13), 3)


def test_of_a_home_with_legacy_rows_alone_the_newest_session_is_shown() -> None:
    rows = [settlement(feed="legacy_csv", ts=MORNING + days * DAY, trade_date=None) for days in (0, 1)]
    [found], _whole, [before] = figures.settlements(rows)
    assert (found.session, before.session) == (date(2025, 10, 14), date(2025, 10, 13))


def test_contracts_are_in_the_order_of_their_dates_and_instruments_in_the_desks() -> None:
    rows = [
        settlement(instrument=name, contract_month=month) for name in ("IND", "DI1") for month in ("F27", "Z25", "F26")
    ]
    found = figures.settlements(rows).shown
    assert [(s.instrument, s.contract_month) for s in found] == [
        (name, month) for name in ("DI1", "IND") for month in ("Z25", "F26", "F27")
    ]


def test_a_settlement_without_a_previous_price_is_compared_with_the_stored_one_of_the_session_before() -> None:
    older = settlement(ts=EVENING - timedelta(days=3), trade_date=datetime(2025, 10, 10), price_settlement=5490.0)
    [found], _whole, [before] = figures.settlements([settlement(price_prev=None), older])
    assert (found.previous, found.change) == (5490.0, 10.0)
    assert (before.session, before.price) == (date(2025, 10, 10), 5490.0)


def test_what_is_older_than_the_session_before_is_no_previous_value() -> None:
    old = settlement(ts=EVENING - 4 * DAY, trade_date=datetime(2025, 10, 9), price_settlement=5490.0)
    rows = [settlement(price_prev=None), old]
    [found], _whole, before = figures.settlements(rows)
    assert (found.previous, found.change, before) == (None, None, [])
    price = figures.price_of("DOL", date(2025, 10, 14), rows, [])
    assert price is not None
    assert (price.value, price.previous) == (5500.0, None)
    daily = [
        {"ts": datetime(2025, 10, day, 23), "indicator": "taxa_selic", "value": 15.0, "feed": "b3_indicators"}
        for day in (9, 13)
    ]
    rate = figures.indicator_of("taxa_selic", daily, [])
    assert rate is not None
    assert (rate.value, rate.previous) == (15.0, None)
    before_last = [{"ts": datetime(2025, 10, 10, 21), "bucket": "dxy_18h00", "value": -0.4, "feed": "yahoo_dxy"}]
    index = figures.dxy_value([tick("dxy_08h50", 8, 50, 0.1)], before_last)
    assert index is not None
    assert (index.value, index.previous) == (0.1, None)


def test_the_curve_has_the_rates_of_one_session_by_expiry() -> None:
    rows = [
        settlement(instrument="DI1", contract_month="F26", price_settlement=97_000.0, settlement_rate=14.9),
        settlement(instrument="DI1", contract_month="X25", price_settlement=99_240.0),
    ]
    curve = figures.curve(figures.settlements(rows).whole)
    assert curve is not None
    assert [(p.contract_month, p.expiry) for p in curve.points] == [
        ("X25", date(2025, 11, 3)),
        ("F26", date(2026, 1, 2)),
    ]
    assert curve.points[1].rate == 14.9
    assert curve.points[0].rate == figures.di_rate(99_240.0, date(2025, 10, 13), "X25")
    assert figures.curve(figures.settlements([settlement()]).whole) is None


def test_the_price_on_top_is_of_the_front_contract_of_today() -> None:
    rows = [settlement(), settlement(contract_month="Z25", price_settlement=5555.0)]
    october = figures.price_of("DOL", date(2025, 10, 14), rows, [])
    november = figures.price_of("DOL", date(2025, 11, 3), rows, [])
    assert october is not None
    assert november is not None
    assert (october.value, october.contract_month, october.previous) == (5500.0, "X25", 5510.5)
    assert (november.value, november.contract_month) == (5555.0, "Z25")


def test_where_the_new_front_contract_has_no_price_yet_that_of_the_old_one_is_shown_as_what_it_is() -> None:
    found = figures.price_of("DOL", date(2025, 11, 3), [settlement()], [])
    assert found is not None
    assert (found.value, found.contract_month) == (5500.0, "X25")


def test_a_capture_counts_where_its_session_is_the_newest_and_never_a_composed_one() -> None:
    capture = {**settlement(ts=datetime(2025, 10, 15, 12), feed="legacy_capture"), "price_settlement_prev": 5500.0}
    del capture["price_prev"], capture["trade_date"]
    newer = {**capture, "price_settlement": 5520.0}
    found = figures.price_of("DOL", date(2025, 10, 15), [settlement()], [newer])
    assert found is not None
    assert (found.value, found.previous, found.session, found.table) == (
        5520.0,
        5500.0,
        date(2025, 10, 14),
        "b3_snapshots",
    )
    composed = figures.price_of("DOL", date(2025, 10, 15), [settlement()], [{**newer, "feed": "composed"}])
    assert composed is not None
    assert composed.value == 5500.0


def test_an_indicator_has_its_newest_session_and_the_one_before() -> None:
    daily = [
        {"ts": datetime(2025, 10, 13, 23), "indicator": "taxa_selic", "value": 15.0, "feed": "b3_indicators"},
        {"ts": datetime(2025, 10, 10, 23), "indicator": "taxa_selic", "value": 14.9, "feed": "b3_indicators"},
        {"ts": datetime(2025, 10, 13, 23), "indicator": "taxa_sofr", "value": 4.1, "feed": "b3_indicators"},
    ]
    captured = [{"ts": MORNING, "name": "TAXA SELIC - (a.a.)", "value": 14.5, "feed": "legacy_capture"}]
    found = figures.indicator_of("taxa_selic", daily, captured)
    assert found is not None
    assert (found.value, found.previous, found.session) == (15.0, 14.9, date(2025, 10, 13))
    alone = figures.indicator_of("taxa_selic", [], captured)
    assert alone is not None
    assert (alone.value, alone.previous, alone.table) == (14.5, None, "b3_indicators")
    assert figures.indicator_of("taxa_selic", [], []) is None


def test_a_figure_is_as_fresh_as_its_own_feed_and_else_as_its_table() -> None:
    late = FeedAge("b3_sprd", None, MORNING, NOW.replace(tzinfo=None))
    good = FeedAge("legacy_csv", MORNING, EVENING, NOW.replace(tzinfo=None))
    tables = {"b3_adjustments": Freshness(2, EVENING, 1.0, (late, good))}
    figure = figures.PRICES[0]
    row = settlement(feed="legacy_csv")
    value = figures.Value(5500.0, row, date(2025, 10, 13), "b3_adjustments", 5510.5, "X25")
    assert figures.kpi(figure, value, NOW, tables).fresh is True
    assert figures.kpi(figure, value, NOW, tables).due == NOW
    foreign = figures.Value(5500.0, settlement(feed="composed"), date(2025, 10, 13), "b3_adjustments")
    assert figures.kpi(figure, foreign, NOW, tables).fresh is False
    empty = figures.kpi(figure, None, NOW, tables)
    assert (empty.value, empty.at, empty.fresh) == (None, None, False)
    assert figures.kpi(figure, value, NOW, {}).fresh is None


def test_the_age_of_a_figure_is_that_of_its_row() -> None:
    value = figures.Value(5500.0, settlement(), date(2025, 10, 13), "b3_adjustments", 5510.5, "X25")
    found = figures.kpi(figures.PRICES[0], value, NOW, {})
    assert (found.age_s, found.change) == (16.5 * 3600, -10.5)


def test_a_surface_has_its_tenors_by_date_and_its_deltas_as_numbers_with_null_where_it_has_none() -> None:
    def point(tenor: str, delta: int, value: float) -> dict[str, Any]:
        return {
            "ts": EVENING,
            "contract_month": tenor,
            "delta_bucket": f"delta_{delta}",
            "volatility": value,
            "updated_at": datetime(2025, 10, 13),
            "feed": "b3_vol_xlsx",
        }

    found = figures.surface([point("jan-26", 10, 3.0), point("nov-25", 5, 2.0), point("nov-25", 25, 4.0)])
    assert found is not None
    assert (found.tenors, found.deltas) == (["nov-25", "jan-26"], [5, 10, 25])
    assert found.values == [[2.0, None, 4.0], [None, 3.0, None]]
    assert found.updated_at == date(2025, 10, 13)
    assert figures.surface([]) is None


def test_gamma_levels_are_the_newest_of_each_instrument() -> None:
    def level(name: str, minute: int, feed: str, wall: float) -> dict[str, Any]:
        walls = {"call_wall": wall, "put_wall": None, "gamma_flip": None, "status": "sucesso"}
        return {"ts": EVENING + timedelta(minutes=minute), "instrument": name, "feed": feed, **walls}

    found = figures.gamma(
        [
            level("VIX", 0, "gammalevels", 25),
            level("ES_SP500", 5, "legacy_capture", 6700),
            level("ES_SP500", 5, "gammalevels", 6701),
            level("ES_SP500", 0, "gammalevels", 6600),
        ]
    )
    assert [(one.instrument, one.call_wall) for one in found] == [("ES_SP500", 6701), ("VIX", 25)]


BUCKETS = {"dxy_08h50": time(8, 50), "dxy_08h55": time(8, 55), "dxy_09h00": time(9, 0), "dxy_09h05": time(9, 5)}


def tick(bucket: str, hour: int, minute: int, value: float | None, feed: str = "yahoo_dxy") -> dict[str, Any]:
    return {"ts": datetime(2025, 10, 14, hour + 3, minute), "bucket": bucket, "value": value, "feed": feed}


def test_a_bucket_that_should_be_there_and_is_not_is_a_gap_and_one_that_is_still_to_come_is_none() -> None:
    rows = [tick("dxy_08h50", 8, 50, 0.1), tick("dxy_09h00", 9, 0, 0.3), tick("dxy_08h50", 8, 50, 0.2, "legacy_csv")]
    found = figures.dxy(rows, date(2025, 10, 14), BUCKETS, until=datetime(2025, 10, 14, 12, 2))
    assert [(p.bucket, p.value) for p in found.points] == [
        ("dxy_08h50", 0.1),
        ("dxy_08h55", None),
        ("dxy_09h00", 0.3),
    ]
    assert found.points[1].at == datetime(2025, 10, 14, 11, 55, tzinfo=UTC)
    assert figures.dxy([], None, BUCKETS, MORNING).points == []


def test_the_index_now_is_its_last_reading_and_the_one_before_is_of_an_earlier_day() -> None:
    before = [{"ts": datetime(2025, 10, 13, 21), "bucket": "dxy_18h00", "value": -0.4, "feed": "yahoo_dxy"}]
    rows = [tick("dxy_08h50", 8, 50, 0.1), tick("dxy_08h55", 8, 55, 0.2), tick("dxy_09h00", 9, 0, None)]
    found = figures.dxy_value(rows, before)
    assert found is not None
    assert (found.value, found.previous, found.session) == (0.2, -0.4, date(2025, 10, 14))
    quiet = figures.dxy_value([], before)
    assert quiet is not None
    assert (quiet.value, quiet.session) == (-0.4, date(2025, 10, 13))
    assert figures.dxy_value([], []) is None
