"""What may be asked: days and moments, contract months in both forms, cursors; and how what may not is told."""

from __future__ import annotations

from datetime import datetime, timedelta
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from b3_pipeline.api.paging import BadCursor, Position, from_cursor, to_cursor
from b3_pipeline.api.problems import Problem
from b3_pipeline.api.v1 import filters
from b3_pipeline.api.v1.filters import BadMoment, read, span
from b3_pipeline.parsing.kinds import MARKET_KINDS

MODELS = (
    filters.SnapshotFilters,
    filters.AdjustmentFilters,
    filters.SurfaceFilters,
    filters.GammaFilters,
    filters.IndicatorFilters,
    filters.DailyIndicatorFilters,
    filters.DxyFilters,
    filters.LoadFilters,
    filters.SignalFilters,
    filters.Newest,
    filters.Filters,
)


def asked(query: bytes) -> Request:
    return Request({"type": "http", "query_string": query, "headers": [], "method": "GET", "path": "/"})


@pytest.mark.parametrize(
    ("text", "start", "length"),
    [
        ("2025-10-13", datetime(2025, 10, 13, 3), timedelta(days=1)),
        ("2018-11-04", datetime(2018, 11, 4, 3), timedelta(hours=23)),  # the clocks were put forward at midnight
        ("2025-10-13T09:00:32", datetime(2025, 10, 13, 12, 0, 32), timedelta(microseconds=1)),
        ("2025-10-13T12:00:32Z", datetime(2025, 10, 13, 12, 0, 32), timedelta(microseconds=1)),
        ("2025-10-13T14:00+02:00", datetime(2025, 10, 13, 12), timedelta(microseconds=1)),
        ("2025-10-13T14:00 02:00", datetime(2025, 10, 13, 12), timedelta(microseconds=1)),  # a plus not escaped
        ("2025-10-13 12:00:00.5Z", datetime(2025, 10, 13, 12, 0, 0, 500_000), timedelta(microseconds=1)),
    ],
)
def test_a_day_is_a_local_one_and_a_time_without_a_zone_too(text: str, start: datetime, length: timedelta) -> None:
    found = span(text)
    assert (found.start, found.end) == (start, start + length)


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31"])
def test_the_first_and_the_last_day_that_there_are_can_be_asked_for(text: str) -> None:
    assert span(text).start is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2025-13-01",
        "2025-02-30",
        "0000-01-01",
        "9999-12-31T23:59-23:00",
        "2018-11-04T00:30",
        "20251013",
        "2025-10-13T25:00",
        "٢٠٢٥-١٠-١٣",
        "2025-10-13T12:00:00.1234567Z",
        "1e9",
        "2025-10-13\0",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadMoment):
        span(text)


@pytest.mark.parametrize("text", ["X25", "nov-25", "x25", "NOV-25"])
def test_a_contract_month_is_taken_in_both_forms_and_either_case(text: str) -> None:
    assert read(filters.SurfaceFilters, asked(f"contract={text}".encode())).contract == "X25"


def test_every_parameter_that_is_wrong_is_named_with_what_is_allowed() -> None:
    with pytest.raises(Problem) as caught:
        read(filters.AdjustmentFilters, asked(b"limit=-1&contract=A25&instrument=XYZ&orderby=ts&from=now&from=now"))
    errors = {one["parameter"]: one["allowed"] for one in caught.value.more["errors"]}
    assert caught.value.status == 400
    assert set(errors) == {"limit", "contract", "instrument", "orderby", "from"}
    assert errors["limit"] == "a whole number from 1 to 1000"
    assert errors["contract"] == "a contract month: X25 or nov-25"
    assert errors["instrument"] == "DI1, DDI, DOL, WDO, WIN, IND"
    assert errors["orderby"] == "from, to, limit, cursor, feed, contract, instrument"


def test_a_route_without_parameters_says_that_it_has_none() -> None:
    with pytest.raises(Problem, match="allowed: none"):
        read(filters.Filters, asked(b"limit=1"))


def test_a_parameter_that_is_given_twice_is_refused() -> None:
    with pytest.raises(Problem, match="more than once"):
        read(filters.DxyFilters, asked(b"limit=1&limit=2"))


def test_the_feeds_that_may_be_asked_for_are_those_that_there_are() -> None:
    allowed = filters.properties(filters.DxyFilters)["feed"]["enum"]
    assert set(allowed) == {"all", *(kind.feed for kind in MARKET_KINDS)}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["from", "to", "limit", "cursor", "contract", "instrument", "feed", "indicator", "x"]),
            st.one_of(
                st.text(max_size=40),
                st.integers().map(str),
                st.sampled_from(["\0", "%00", "9" * 5000, "0001-01-01", "9999-12-31", "1e400", "X25", "ñ" * 200]),
            ),
        ),
        max_size=5,
    ),
    st.sampled_from(MODELS),
)
def test_any_query_is_read_or_refused(pairs: list[tuple[str, str]], model: type[filters.Filters]) -> None:
    from urllib.parse import quote

    query = "&".join(f"{name}={quote(value.encode('utf-8', 'surrogatepass'))}" for name, value in pairs)
    refusal = None
    try:
        found = read(model, asked(query.encode()))
        if isinstance(found, filters.Paged):
            found.where()
            found.position_of(str)
    except Problem as problem:
        refusal = problem
    if refusal:
        assert refusal.status == 400
        assert refusal.more["errors"]
        assert refusal.response().body  # it can be written


@given(
    st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)),
    st.lists(
        st.one_of(
            st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=20), st.integers(0, 2**53)
        ),
        max_size=3,
    ),
)
def test_a_cursor_gives_back_its_position_to_its_own_question_only(moment: datetime, keys: list[str | int]) -> None:
    position = Position(moment, tuple(keys))
    cursor = to_cursor(position, ("dxy", 1))
    types = [type(key) for key in keys]
    assert from_cursor(cursor, ("dxy", 1), types) == position
    with pytest.raises(BadCursor):
        from_cursor(cursor, ("dxy", 2), types)
    with pytest.raises(BadCursor):
        from_cursor(cursor, ("dxy", 1), [*types, str])


@pytest.mark.parametrize("key", ["DI1\0", "\n", 2**63])
def test_a_cursor_that_somebody_made_up_with_a_key_that_no_table_has_is_none(key: str | int) -> None:
    cursor = to_cursor(Position(datetime(2025, 10, 13, 12), (key,)), "q")
    with pytest.raises(BadCursor):
        from_cursor(cursor, "q", [type(key)])


@pytest.mark.parametrize("key", ["canal\u00a0vip", "👩\u200d💻 sinais", "\u2028", "a" * 500, "💩" * 500])
def test_every_key_that_a_table_may_have_is_in_a_cursor_and_a_filter(key: str) -> None:
    position = Position(datetime(2025, 10, 13, 12), (key, key, key))
    assert from_cursor(to_cursor(position, "q"), "q", [str] * 3) == position
    shown = key[:100]
    assert read(filters.SignalFilters, asked(urlencode({"channel": shown}).encode())).channel == shown


@given(st.text(max_size=60))
def test_no_text_is_a_cursor(text: str) -> None:
    with pytest.raises(BadCursor):
        from_cursor(text, ("dxy", 1), [str])


@given(st.integers(0, 60), st.characters(codec="ascii"))
def test_a_cursor_with_another_character_is_none(place: int, character: str) -> None:
    cursor = to_cursor(Position(datetime(2025, 10, 13, 12), ("DI1", "X25")), "q")
    changed = cursor[:place] + character + cursor[place + 1 :]
    if changed.rstrip("=") != cursor:
        with pytest.raises(BadCursor):
            from_cursor(changed, "q", [str, str])
