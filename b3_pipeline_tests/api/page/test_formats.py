from __future__ import annotations

import math
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.api.page import formats
from b3_pipeline.parsing.numbers import parse_number

FINITE = st.floats(-1e12, 1e12, allow_nan=False)
DECIMALS = st.integers(1, 6)


@given(FINITE, DECIMALS)
def test_a_brazilian_number_reads_back_as_the_rounded_value(value: float, decimals: int) -> None:
    text = formats.number(value, decimals)
    whole, _comma, fraction = text.partition(",")
    assert len(fraction) == decimals
    assert all(len(group) == 3 for group in whole.split(".")[1:])
    read = float(text.replace(".", "").replace(",", ".").replace(formats.MINUS, "-"))
    assert read == float(f"{value:.{decimals}f}")


@given(FINITE, DECIMALS)
def test_a_signed_number_has_a_sign_unless_it_is_shown_as_zero(value: float, decimals: int) -> None:
    text = formats.number(value, decimals, signed=True)
    shown = float(f"{value:.{decimals}f}")
    assert text[0] == ("+" if shown > 0 else formats.MINUS if shown < 0 else "0")


@given(st.floats(0.001, 9_999_999, allow_nan=False))
def test_what_the_page_writes_our_own_parser_reads(value: float) -> None:
    # with both marks, or one comma: what is below a thousand has a comma alone
    assert parse_number(formats.number(value, 2)) == float(f"{value:.2f}")


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_a_dash(value: float | None) -> None:
    assert formats.number(value) == formats.NOTHING
    assert formats.change(value) is None


def test_there_is_no_minus_before_zero() -> None:
    assert formats.number(-0.001, 2) == "0,00"
    assert formats.number(-0.0, 0, signed=True) == "0"


@pytest.mark.parametrize(
    ("value", "text", "arrow", "word"),
    [(1234.5, "+1.234,50", "▲", "alta"), (-2.2, "−2,20", "▼", "queda"), (-0.001, "0,00", "■", "estável")],
)
def test_a_change_is_told_by_sign_arrow_and_word(value: float, text: str, arrow: str, word: str) -> None:
    told = formats.change(value, 2)
    assert told is not None
    assert (told.text, told.arrow, told.word) == (text, arrow, word)


def test_a_change_in_percent_needs_a_value_before() -> None:
    assert formats.change_of(110, 100) == pytest.approx(10)
    assert formats.change_of(-0.5, -1.0) == pytest.approx(50)
    assert formats.change_of(1, None) is formats.change_of(1, 0) is formats.change_of(None, 1) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "há menos de 1 min"),
        (59.9, "há menos de 1 min"),
        (60, "há 1 min"),
        (3_599, "há 59 min"),
        (3_600, "há 1 h"),
        (47.9 * 3_600, "há 47 h"),
        (48 * 3_600, "há 2 dias"),
        (-5, "há menos de 1 min"),
        (None, "–"),
    ],
)
def test_an_age_is_told_in_its_largest_unit(seconds: float | None, text: str) -> None:
    assert formats.age(seconds) == text


def test_a_moment_is_told_in_brasilia_and_no_longer_than_needed() -> None:
    now = datetime(2026, 1, 13, 1, 30, tzinfo=UTC)  # still the 12th there
    assert formats.moment(datetime(2026, 1, 12, 12, 0, 32, tzinfo=UTC), now) == "09:00:32"
    assert formats.moment(datetime(2026, 1, 12, 22, 30), now) == "19:30"
    assert formats.moment(datetime(2026, 1, 12, 2, 59), now) == "11/01 23:59"
    assert formats.moment(datetime(2025, 12, 30, 12, 0), now) == "30/12/2025 09:00"
    assert formats.moment(None, now) == formats.NOTHING


def test_days_months_and_units_are_written_as_the_desk_writes_them() -> None:
    assert formats.day(date(2026, 1, 9)) == "09/01/2026"
    assert [formats.contract_name(c) for c in ("X25", "nov-25", "?", None)] == ["nov/25", "nov/25", "?", "–"]
    assert [formats.unit(u) for u in ("points", "BRL/1000 USD", "PU")] == ["pontos", "R$/US$ mil", "PU"]
