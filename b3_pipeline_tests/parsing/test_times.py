"""Dates and times in exactly the sources' forms, alone and by the column."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from b3_pipeline.parsing.times import (
    BadDate,
    BadTime,
    DateMark,
    parse_date,
    parse_dates,
    parse_iso_date,
    parse_time,
    parse_times,
    parse_timestamp,
    seconds_of,
)


def test_a_date_is_read_in_its_own_form() -> None:
    assert parse_date("07-01-2025", "-") == date(2025, 1, 7)
    assert parse_date(" 23/05/2025 ", "/") == date(2025, 5, 23)
    assert parse_iso_date("2024-02-29") == date(2024, 2, 29)


@pytest.mark.parametrize(
    "text",
    [
        *["7-1-2025", "07/01/2025", "32-13-2025", "29-02-2025", "00-01-2025", "2025-01-07", "07-01-25", "٠7-01-2025"],
        *["01-01-1970", "01-01-2262", "01-01-0000", "07-01-2025x"],
        "",
    ],
)
def test_any_other_text_is_no_date(text: str) -> None:
    with pytest.raises(BadDate):
        parse_date(text, "-")
    _, bad = parse_dates(pa.array([text]), "-")
    assert bad.tolist() == [True]


@pytest.mark.parametrize("text", ["20250107", "2025-1-7", "2025-13-01", "1970-12-31", "2025-W01-1"])
def test_any_other_text_is_no_iso_date(text: str) -> None:
    with pytest.raises(BadDate):
        parse_iso_date(text)


def test_a_time_may_leave_out_its_seconds() -> None:
    assert parse_time("09:32:25") == time(9, 32, 25)
    assert parse_time(" 09:32 ") == time(9, 32)


@pytest.mark.parametrize("text", ["25:99:00", "24:00", "9:32", "09:32:60", "09h32", "", "09:32:25.5", "09:32:25Z"])
def test_any_other_text_is_no_time(text: str) -> None:
    with pytest.raises(BadTime):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("2025-10-13T09:00:32", "2025-10-13T09:00:32"),
        ("2025-10-13 09:00", "2025-10-13T09:00:00"),
        ("2025-10-13T09:00:32.5", "2025-10-13T09:00:32.500000"),
        ("2025-10-13T09:00:32.123456789", "2025-10-13T09:00:32.123456"),
        ("2025-10-13T12:00:32Z", "2025-10-13T09:00:32"),
        ("2025-10-13T09:00:32-03:00", "2025-10-13T09:00:32"),
        ("2025-10-13T14:00:32+0200", "2025-10-13T09:00:32"),
    ],
)
def test_a_timestamp_is_local_whatever_zone_it_names(text: str, local: str) -> None:
    assert parse_timestamp(text) == datetime.fromisoformat(local)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("2025-10-13", BadDate),
        ("13-10-2025T09:00:32", BadDate),
        ("2025-02-30T09:00:32", BadDate),
        ("1971-01-01T00:00:00Z", BadDate),  # still 1970 in Brasília
        ("2025-10-13T25:00:32", BadTime),
        ("2025-10-13T24:00:00", BadTime),
        ("2025-10-13T09:00:32+99:00", BadTime),
        ("", BadDate),
    ],
)
def test_an_impossible_timestamp_says_which_part_is_wrong(text: str, error: type[ValueError]) -> None:
    with pytest.raises(error):
        parse_timestamp(text)


def outcome(parse: Callable[[], object]) -> object:
    try:
        return parse()
    except ValueError:
        return None


@given(
    st.lists(
        st.one_of(
            st.text(max_size=11),
            st.dates().map(lambda day: f"{day:%d-%m-}{day.year:04d}"),
            st.dates().map(lambda day: f" {day:%d/%m/}{day.year:04d}"),
            st.from_regex(r"[0-9]{2}[-/][0-9]{2}[-/][0-9]{4}", fullmatch=True),
        )
    ),
    st.sampled_from(["-", "/"]),
)
@example(["29-02-2024", "29-02-2023", "31-04-2025", "00-00-0000", "99-99-9999", "29-02-2024"], "-")
def test_a_column_of_dates_is_read_as_each_of_them(texts: list[str], mark: DateMark) -> None:
    days, bad = parse_dates(pa.array(texts, pa.string()), mark)
    expected = [outcome(lambda text=text: parse_date(text, mark)) for text in texts]
    assert days.dtype == np.dtype("datetime64[D]")
    assert days.tolist() == expected
    assert bad.tolist() == [day is None for day in expected]


@given(st.lists(st.one_of(st.text(max_size=9), st.times().map(str), st.from_regex(r"[0-9]{2}(:[0-9]{2}){1,2}"))))
def test_a_column_of_times_is_read_as_each_of_them(texts: list[str]) -> None:
    seconds, bad = parse_times(pa.array(texts, pa.string()))
    expected = [outcome(lambda text=text: seconds_of(parse_time(text))) for text in texts]
    assert seconds.tolist() == [second or 0 for second in expected]
    assert bad.tolist() == [second is None for second in expected]
