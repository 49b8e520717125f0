"""Contract months in both forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.parsing.months import (
    BadMonth,
    as_code,
    as_tenor,
    is_code,
    is_tenor,
    to_code,
    to_tenor,
    year_and_month,
)


def test_the_same_month_has_two_forms() -> None:
    assert as_tenor("X25") == "nov-25"
    assert as_code("nov-25") == "X25"
    assert as_code("X25") == "X25"
    assert as_tenor("nov-25") == "nov-25"


@given(st.integers(2000, 2099), st.integers(1, 12))
def test_both_forms_lead_back_to_the_month(year: int, month: int) -> None:
    code, tenor = to_code(year, month), to_tenor(year, month)
    assert is_code(code)
    assert is_tenor(tenor)
    assert year_and_month(code) == year_and_month(tenor) == (year, month)


@pytest.mark.parametrize("text", ["A25", "x25", "X5", "X2025", "X25 ", "nov-25", "", "X٢٥", "X25\n"])
def test_any_other_text_is_no_code(text: str) -> None:
    assert not is_code(text)


@pytest.mark.parametrize("text", ["xyz-25", "Nov-25", "nov25", "nov-2025", "feb-25", "X25", "", "nov-25\n"])
def test_any_other_text_is_no_tenor(text: str) -> None:
    assert not is_tenor(text)


@pytest.mark.parametrize(("year", "month"), [(1999, 1), (2100, 1), (2025, 0), (2025, 13)])
def test_a_month_that_two_digits_cannot_hold_is_refused(year: int, month: int) -> None:
    with pytest.raises(BadMonth):
        to_code(year, month)
    with pytest.raises(BadMonth):
        to_tenor(year, month)


def test_a_text_in_neither_form_is_refused() -> None:
    with pytest.raises(BadMonth):
        year_and_month("2025-11")
