"""Rows of a table as lines of a legacy file, and what of them the form can hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.parsing.numbers import parse_number
from b3_pipeline.parsing.records import ORIGIN
from b3_pipeline.sessions import trade_date
from b3_pipeline.shadow.forms import FORMS, Damaged, Form, Gathered, file_of, lines_of, parsed, plain

ADJUSTMENTS, INDICATORS = FORMS["b3_adjustments"], FORMS["b3_indicators_daily"]
SURFACE, DXY = FORMS["b3_vol_surface"], FORMS["b3_dxy_ticks"]
MORNING, EVENING = datetime(2025, 10, 13, 12, 30), datetime(2025, 10, 13, 22, 30)


def rows(form: Form, *given_rows: dict[str, Any]) -> pa.Table:
    schema = form.table.arrow_schema((*form.table.parsed, form.table.column("feed")))
    empty: dict[str, Any] = dict.fromkeys(schema.names)
    return pa.Table.from_pylist([empty | row for row in given_rows], schema=schema)


def gathered(form: Form, *given_rows: dict[str, Any]) -> Gathered:
    result = Gathered(form)
    result.add(rows(form, *given_rows))
    return result


def text(result: Gathered) -> list[str]:
    return file_of(result.form, result.lines).decode().splitlines()[1:]


def settlement(
    instrument: str, month: str, price: float, ts: datetime = EVENING, feed: str = "b3_sprd", **more: Any
) -> dict:
    own = date(2025, 10, 13) if ts == EVENING else date(2025, 10, 10)
    values = {"ts": ts, "instrument": instrument, "contract_month": month, "price_settlement": price, "trade_date": own}
    return values | {"status": "ajustado", "feed": feed} | more


def reading(bucket: str, minute: int, value: float, **more: Any) -> dict:
    given_row = {"ts": datetime(2025, 10, 13, 11, minute), "bucket": bucket, "value": value}
    return given_row | {"status": "sucesso", "provider": "Yahoo Finance", "feed": "yahoo_dxy"} | more


def volatility(delta: str, value: float, tenor: str = "nov-25", **more: Any) -> dict:
    given_row = {"ts": MORNING, "contract_month": tenor, "delta_bucket": delta, "volatility": value}
    return given_row | {"updated_at": date(2025, 10, 13), "feed": "b3_vol_xlsx"} | more


@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.file)
def test_a_header_is_that_of_the_legacy_file(form: Form, shared: Path) -> None:
    with (shared / "data" / "legacy" / "clean" / form.file).open(encoding="utf-8-sig") as file:
        assert tuple(file.readline().strip().split(",")) == form.header


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_in_digits_is_the_very_same_double_again(number: float) -> None:
    assert parse_number(plain(number)) == number
    assert "e" not in plain(number).lower()


@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.file)
def test_the_records_of_a_legacy_file_are_all_held_and_come_back_equal(form: Form, shared: Path) -> None:
    records = parsed(form, (shared / "data" / "legacy" / "clean" / form.file).read_bytes())
    feed = pa.array(["legacy_csv"] * records.num_rows).dictionary_encode()
    result = Gathered(form)
    result.add(records.drop_columns(ORIGIN.names).append_column("feed", feed))
    again = parsed(form, file_of(form, result.lines))
    columns = [c.name for c in form.columns]
    assert result.beyond == 0
    assert again.select(columns).to_pylist() == records.sort_by("ts").select(columns).to_pylist()
    assert lines_of(form, file_of(form, result.lines)) == result.lines


def test_of_a_report_the_front_contract_of_each_of_the_three_instruments_is_held() -> None:
    result = gathered(
        ADJUSTMENTS,
        settlement("DI1", "X25", 99121.69, price_prev=99164.79, settlement_rate=14.9, open_interest=7),
        settlement("DI1", "F26", 97000.5),
        settlement("DOL", "X25", 5528.504),
        settlement("WIN", "Z25", 140000.0),
    )
    assert text(result) == ["13-10-2025,19:30:00,,,,X25,99121.69,99164.79,X25,5528.504,,ajustado"]
    assert result.beyond == 2
    assert result.held_rows().column("contract_month").to_pylist() == ["X25", "X25"]


def test_in_december_the_front_contract_is_january_of_the_next_year() -> None:
    december = datetime(2025, 12, 15, 22, 30)
    row = settlement("DI1", "F26", 98900.0, ts=december, trade_date=date(2025, 12, 15))
    assert text(gathered(ADJUSTMENTS, row))[0].startswith("15-12-2025,19:30:00,,,,F26,98900.0,")


def test_a_legacy_row_keeps_the_contract_that_it_had() -> None:
    row = settlement("DI1", "F27", 88000.0, ts=MORNING, feed="legacy_csv")
    assert text(gathered(ADJUSTMENTS, row))[0].startswith("13-10-2025,09:30:00,,,,F27,88000.0,")


def test_of_two_feeds_the_one_that_takes_precedence_is_held_and_the_other_is_not_beyond() -> None:
    live, legacy = settlement("DI1", "X25", 2000.5), settlement("DI1", "X25", 1000.5, feed="legacy_csv")
    result = gathered(ADJUSTMENTS, legacy, live)
    assert "2000.5" in text(result)[0]
    assert (len(result.lines), result.beyond) == (1, 0)


@pytest.mark.parametrize(
    ("form", "row"),
    [
        (ADJUSTMENTS, settlement("DI1", "X25", 99121.69, ts=datetime(2025, 10, 13, 22, 30, 0, 5), feed="legacy_csv")),
        (ADJUSTMENTS, settlement("DI1", "X25", 99121.69, trade_date=date(2025, 10, 1))),
        (ADJUSTMENTS, settlement("DI1", "X25", 99121.69, status="two\nlines")),
        (ADJUSTMENTS, settlement("DI1", "X25", 99121.69, status=" padded")),
        (ADJUSTMENTS, settlement("DI1", "X25", 5.0)),
        (DXY, reading("dxy_09h05", 5, 0.1)),
        (DXY, reading("dxy_08h50", 51, 0.1)),
        (DXY, reading("dxy_08h50", 50, 0.1, status="falha")),
        (SURFACE, volatility("delta_1", 20.0, tenor="2025-11-01")),
        (SURFACE, volatility("delta_2", 20.0)),
        (INDICATORS, {"ts": MORNING, "indicator": "taxa_cdi_cetip", "value": 14.9, "feed": "b3_indicators"}),
    ],
    ids=lambda given: None if isinstance(given, dict) else given.file,
)
def test_what_would_not_come_back_as_it_is_is_beyond_the_form(form: Form, row: dict) -> None:
    result = gathered(form, row)
    assert (result.lines, result.beyond) == ({}, 1)


def test_of_a_local_hour_that_was_twice_the_second_one_is_beyond() -> None:
    twice = [
        {"ts": datetime(2019, 2, 17, hour, 30), "indicator": "taxa_selic", "value": 6.5, "feed": "legacy_csv"}
        for hour in (1, 2)
    ]
    result = gathered(INDICATORS, *twice)
    assert (text(result), result.beyond) == (["16-02-2019,23:30:00,6.5,,,"], 1)


def test_records_of_one_line_share_what_it_says_once_and_another_is_beyond() -> None:
    first = reading("dxy_08h50", 50, -0.49)
    result = gathered(DXY, first, reading("dxy_08h55", 55, -0.5, provider="other"))
    assert text(result) == ["13-10-2025,-0.49,,,Yahoo Finance,sucesso,,"]
    assert result.beyond == 1


def test_a_line_that_comes_in_two_pieces_is_one_line() -> None:
    result = gathered(DXY, reading("dxy_08h50", 50, -0.49))
    result.add(rows(DXY, reading("dxy_08h55", 55, 0.25)))
    assert text(result) == ["13-10-2025,-0.49,0.25,,Yahoo Finance,sucesso,sucesso,"]


def test_lines_stand_in_time_and_in_each_moment_by_tenor() -> None:
    result = gathered(SURFACE, *(volatility("delta_25", 14.0, tenor=t) for t in ("jan-26", "dez-25", "nov-25")))
    assert [line.split(",")[2] for line in text(result)] == ["nov-25", "dez-25", "jan-26"]


GOOD = b"data,hora,taxa_selic,taxa_sofr,dolar_cupom_limpo,dif_oper_casada\n13-10-2025,09:30:00,14.9,,,\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOOD[:-1],
        GOOD[:-9] + b"\n",
        GOOD.replace(b"taxa_sofr", b"sofr"),
        GOOD.replace(b"14.9", b"abc"),
        GOOD.replace(b"14.9,,", b"14.9,,,"),
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.replace(b"13-10", b"13/10"),
        GOOD.replace(b"09:30:00", b"9:30"),
        GOOD + b"\n",
        GOOD + b"14-10-2025,09:30:00,14.9,,,\n13-10-2025,09:30:00,14.9,,,\n",
        b"\xff\xfe" + GOOD,
        b"PK\x03\x04 somebody's zip\n",
    ],
)
def test_a_file_that_is_torn_or_not_ours_is_noticed(data: bytes) -> None:
    assert len(lines_of(INDICATORS, GOOD)) == 1
    with pytest.raises(Damaged):
        lines_of(INDICATORS, data)


@given(st.binary(max_size=200))
def test_no_bytes_end_otherwise_than_as_lines_or_damaged(data: bytes) -> None:
    for content in (data, GOOD + data):
        try:
            assert file_of(INDICATORS, lines_of(INDICATORS, content)) == content
        except Damaged:
            continue


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["DI1", "DDI", "DOL", "WIN"]),
            st.sampled_from(["X25", "Z25", "bad"]),
            st.sampled_from([MORNING, EVENING]),
            st.sampled_from(["b3_sprd", "legacy_csv"]),
            st.floats(0.5, 200_000),
            st.sampled_from([None, "ajustado", "migrado", "-", 'a "quote", comma', "ação"]),
        ),
        max_size=12,
        unique_by=lambda row: row[:4],
    )
)
def test_whatever_the_rows_are_those_that_are_held_come_back_and_all_others_are_counted(given_rows: list) -> None:
    made = []
    for instrument, month, ts, feed, price, status in given_rows:
        local = ts.replace(hour=ts.hour - 3)
        made.append(settlement(instrument, month, price, ts, feed, status=status, trade_date=trade_date(local)))
    result = gathered(ADJUSTMENTS, *made)
    columns = [c.name for c in ADJUSTMENTS.columns]
    again = parsed(ADJUSTMENTS, file_of(ADJUSTMENTS, result.lines)).select(columns).to_pylist()
    held = result.held_rows().to_pylist()
    assert sorted(again, key=repr) == sorted(held, key=repr)
    assert len(held) + result.beyond == len({(r["ts"], r["instrument"], r["contract_month"]) for r in made})


def test_the_form_knows_which_columns_it_gives_back() -> None:
    assert {c.name for c in ADJUSTMENTS.table.parsed} - {c.name for c in ADJUSTMENTS.columns} == {
        "settlement_rate",
        "open_interest",
    }
    assert replace(ADJUSTMENTS).held_table.keys == ADJUSTMENTS.table.keys
