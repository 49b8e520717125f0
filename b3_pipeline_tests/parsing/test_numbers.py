"""Numbers in Brazilian and English notation, alone and by the column."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from b3_pipeline.parsing.numbers import BadNumber, is_absent, parse_number, parse_numbers, where_absent


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5528.504", 5528.504),
        ("5.528,504", 5528.504),
        ("5,528.504", 5528.504),
        ("+0.26", 0.26),
        ("+0,26", 0.26),
        ("-99.121,69", -99121.69),
        ("6.700", 6.7),
        ("6,700", 6.7),
        ("1.234.567", 1234567.0),
        ("1.234.567,8", 1234567.8),
        ("1,234,567.8", 1234567.8),
        ("  12 ", 12.0),
        ("007", 7.0),
        ("-0", 0.0),
    ],
)
def test_a_number_is_read_in_either_notation(text: str, value: float) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "-", "N/A", "null", "  ", " N/A "])
def test_the_marks_of_absence_are_no_value(text: str) -> None:
    assert parse_number(text) is None
    assert is_absent(text)


@pytest.mark.parametrize(
    "text",
    [
        *("4,1,3", "4.1.3", "1.23,45", "5528.504,10", "1,234,567", "1.234,567,8", "1.234.56"),
        *("abc", "inf", "-inf", "nan", "NaN", "true", "n.d.", "n/a", "NULL"),
        *("--1", "+-1", "1-", "+", "1e5", ".5", "5.", ",5", "5,", "1_0", "0x1", "5%", "٣"),
        "1 234",
        "12\n3",
        "R$ 5",
    ],
)
def test_any_other_text_is_no_number(text: str) -> None:
    with pytest.raises(BadNumber):
        parse_number(text)
    assert not is_absent(text)


def test_a_number_beyond_all_floats_is_infinite() -> None:
    digits = "9" * 5000
    assert parse_number(digits) == math.inf
    assert parse_numbers(pa.array([f"-{digits},5"])).values.tolist() == [-math.inf]


CELLS = st.one_of(
    st.text(max_size=8),
    st.text(alphabet="0123456789.,+- \n", max_size=14),
    st.from_regex(r"[+-]?\d{1,3}([.,]\d{3}){0,3}([.,]\d{1,4})?", fullmatch=True),
    st.sampled_from(["", "-", "N/A", "null", "inf", "1e5", " 1,5\t", "\xa01"]),
)


@given(st.lists(CELLS))
@example(["1.234,5", "abc", "-", "1.5", "1,234.5", "1.5"])
def test_a_column_is_read_as_each_of_its_texts(texts: list[str]) -> None:
    numbers = parse_numbers(pa.array(texts, pa.string()))
    assert where_absent(pa.array(texts, pa.string())).tolist() == numbers.absent.tolist()
    for place, text in enumerate(texts):
        try:
            value = parse_number(text)
        except BadNumber:
            assert numbers.bad[place]
            assert not numbers.absent[place]
            assert math.isnan(numbers.values[place])
            continue
        assert not numbers.bad[place]
        assert numbers.absent[place] == (value is None)
        assert math.isnan(numbers.values[place]) if value is None else numbers.values[place] == value


@given(st.integers(-(10**12), 10**12), st.integers(1, 6))
def test_every_way_to_write_a_number_reads_the_same(scaled: int, decimals: int) -> None:
    value = scaled / 10**decimals
    english = f"{value:,.{decimals}f}"
    brazilian = english.translate(str.maketrans(",.", ".,"))
    bare = english.replace(",", "")
    written = [english, brazilian, bare, bare.replace(".", ",")]
    assert {parse_number(text) for text in written} == {float(bare)}
    assert set(parse_numbers(pa.array(written)).values) == {float(bare)}


def test_a_null_cell_is_absent() -> None:
    assert parse_numbers(pa.array([None, "1"], pa.string())).absent.tolist() == [True, False]
