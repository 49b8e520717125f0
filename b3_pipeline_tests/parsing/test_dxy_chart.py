from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.parsing import kinds
from b3_pipeline.parsing.dxy_chart import SYMBOL, parse_dxy_chart, read_chart
from b3_pipeline.parsing.records import COLUMN, TEXT, Chunk, FileRejected, Reason, record_schema
from b3_pipeline.sessions import ZONE, to_local
from b3_pipeline.tables import TABLES

TABLE = TABLES["b3_dxy_ticks"]
DAY = date(2026, 1, 12)


def at(clock: str, day: date = DAY) -> int:
    """A local time of the day in seconds since 1970."""
    return int(datetime.combine(day, time.fromisoformat(clock), ZONE).timestamp())


def chart(bars: dict[str, Any], **meta: Any) -> dict[str, Any]:
    """A chart of the bars that begin at these local times."""
    head = {"symbol": SYMBOL, "chartPreviousClose": 100.0, "dataGranularity": "5m", **meta}
    times, closes = [at(clock) for clock in bars], list(bars.values())
    result = {"meta": head, "timestamp": times, "indicators": {"quote": [{"close": closes}]}}
    return {"chart": {"result": [result], "error": None}}


def parsed(document: object, last: time = time(18, 30)) -> Chunk:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    (chunk,) = parse_dxy_chart(io.BytesIO(data), TABLE, last)
    assert chunk.records.schema == record_schema(TABLE)
    return chunk


def values(chunk: Chunk) -> dict[str, float]:
    return {row["bucket"]: row["value"] for row in chunk.records.to_pylist()}


def test_a_bucket_has_the_change_at_the_end_of_the_bar_before_it() -> None:
    chunk = parsed(chart({"08:45": 100.26, "08:50": 100.25, "08:55": 100.24, "09:00": 100.5}))
    assert values(chunk) == {
        "dxy_08h50": (100.26 / 100 - 1) * 100,
        "dxy_08h55": (100.25 / 100 - 1) * 100,
        "dxy_09h00": (100.24 / 100 - 1) * 100,
    }
    row = chunk.records.to_pylist()[0]
    assert (to_local(row["ts"]), row["status"], row["provider"]) == (datetime(2026, 1, 12, 8, 50), "sucesso", "yahoo")
    assert row[COLUMN] == "/chart/result/0/indicators/quote/0/close/0"
    assert json.loads(row[TEXT]) == {"bucket": "dxy_08h50", "close": 100.26, "previousClose": 100.0}


def test_a_bar_that_is_not_over_gives_nothing() -> None:
    chunk = parsed(chart({"08:45": 100.26, "08:50": 100.25, "08:54:59": 100.9}))
    assert list(values(chunk)) == ["dxy_08h50"]
    assert chunk.candidates == 1


def test_a_value_stays_the_same_however_far_the_day_has_gone_on() -> None:
    bars = {"08:45": 100.26, "08:50": 100.25, "08:55": 99.87}
    early, late = parsed(chart(bars)), parsed(chart({**bars, "09:00": 99.5, "09:01:17": 98.7}))
    assert values(early).items() <= values(late).items()


def test_nothing_is_carried_forward() -> None:
    chunk = parsed(chart({"08:45": 100.26, "08:50": None, "09:00": 100.1, "09:05": 100.2}))
    assert list(values(chunk)) == ["dxy_08h50", "dxy_09h05"]
    assert (chunk.absent, chunk.rejects, chunk.candidates) == (2, [], 4)


def test_bars_of_a_minute_give_the_newest_that_is_over_and_has_a_price() -> None:
    bars = {"08:46": 100.1, "08:47": 100.2, "08:48": None, "08:49": None, "08:50": 100.9, "08:51": 101.0}
    assert values(parsed(chart(bars, dataGranularity="1m"))) == {"dxy_08h50": (100.2 / 100 - 1) * 100}


def test_the_day_is_read_from_ten_to_nine_until_the_end_that_is_set() -> None:
    bars = {f"{minute // 60:02}:{minute % 60:02}": 100 + minute / 1e5 for minute in range(8 * 60, 20 * 60, 5)}
    buckets = list(values(parsed(chart(bars))))
    assert (buckets[0], buckets[-1], len(buckets)) == ("dxy_08h50", "dxy_18h30", 117)
    assert list(values(parsed(chart(bars), time(9, 0)))) == ["dxy_08h50", "dxy_08h55", "dxy_09h00"]
    by_kind = kinds.dxy_chart(time(9, 0)).parse(io.BytesIO(json.dumps(chart(bars)).encode()), TABLE)
    assert sum(c.candidates for c in by_kind.chunks) == 3


def test_only_the_newest_day_is_read() -> None:
    document = chart({"08:45": 100.1, "08:50": 100.2})
    result = document["chart"]["result"][0]
    result["timestamp"] = [at("17:00", DAY - timedelta(days=1)), *result["timestamp"]]
    result["indicators"]["quote"][0]["close"].insert(0, 99.0)
    assert list(values(parsed(document))) == ["dxy_08h50"]
    assert read_chart(io.BytesIO(json.dumps(document).encode())).day == DAY


def test_before_the_first_bucket_there_is_no_candidate() -> None:
    assert parsed(chart({"08:00": 100.1, "08:44": 100.2})).candidates == 0


def test_the_order_of_the_bars_does_not_matter() -> None:
    bars = {"08:45": 100.26, "08:50": 100.25, "08:55": 100.24, "09:00": 100.5}
    assert values(parsed(chart(dict(reversed(bars.items()))))) == values(parsed(chart(bars)))


def test_the_other_previous_close_is_taken_where_the_first_is_missing() -> None:
    document = chart({"08:45": 101.0, "08:50": 101.0}, chartPreviousClose=None, previousClose=98)
    assert values(parsed(document)) == {"dxy_08h50": (101.0 / 98 - 1) * 100}


@pytest.mark.parametrize(
    ("close", "reason"),
    [
        ("n.d.", Reason.BAD_NUMBER),
        (True, Reason.BAD_NUMBER),
        (0, Reason.OUT_OF_BOUNDS),
        (-100, Reason.OUT_OF_BOUNDS),
        (110.1, Reason.OUT_OF_BOUNDS),
        (1e999, Reason.BAD_NUMBER),
        ([], Reason.BAD_NUMBER),
    ],
)
def test_a_wrong_price_rejects_its_bucket_alone(close: object, reason: Reason) -> None:
    chunk = parsed(chart({"08:45": close, "08:50": 100.2, "08:55": 100.1}))
    assert list(values(chunk)) == ["dxy_08h55"]
    (reject,) = chunk.rejects
    assert (reject.column, reject.reason) == ("/chart/result/0/indicators/quote/0/close/0", reason)


BARS = {"08:45": 100.26, "08:50": 100.25}


def changed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    document = chart(BARS)
    inner: Any = document["chart"]
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "not JSON"),
        (json.dumps(chart(BARS)).encode()[:-20], "not JSON, or cut off"),
        ([], "symbol is 'null'"),
        ({}, "symbol is 'null'"),
        (
            {"chart": {"result": None, "error": {"code": "Not Found", "description": "No data found"}}},
            "error instead of a chart: Not Found: No data found",
        ),
        (chart(BARS, symbol="EURUSD=X"), "symbol is 'EURUSD=X'"),
        (chart({}), "no prices"),
        (changed(("result", 0, "timestamp"), None), "no prices"),
        (changed(("result", 0, "indicators"), {"quote": [{}]}), "no prices"),
        (changed(("result", 0, "timestamp"), [1]), "1 times and 2 prices"),
        (changed(("result", 0, "timestamp"), [True, 1]), "no seconds since 1970"),
        (changed(("result", 0, "timestamp"), [10**10 - 1, 1.5]), "no seconds since 1970|of the year"),
        (changed(("result", 0, "timestamp"), [1, 2]), "of the year 1970"),
        (chart(BARS, chartPreviousClose=None), "no previous close"),
        (chart(BARS, chartPreviousClose=0), "no previous close"),
        (chart(BARS, chartPreviousClose="100"), "no previous close"),
        (chart(BARS, dataGranularity="1d"), "bars are '1d' long"),
        (chart(BARS, dataGranularity=None), "bars are 'null' long"),
    ],
)
def test_what_is_no_chart_with_prices_is_rejected_whole(document: object, said: str) -> None:
    with pytest.raises(FileRejected, match=said):
        parsed(document)


PRICES: Any = st.none() | st.sampled_from([True, "x", "", 0, -1, 1e300, {}, 100]) | st.floats(95, 105)


@given(st.dictionaries(st.integers(0, 24 * 60 - 1), PRICES, min_size=1))
def test_every_bucket_until_the_newest_time_is_accounted_for(bars: dict[int, Any]) -> None:
    document = chart({f"{minute // 60:02}:{minute % 60:02}": price for minute, price in bars.items()})
    chunk = parsed(document)
    newest = min(max(bars), 18 * 60 + 30)
    assert chunk.candidates == max(0, (newest - 530) // 5 + 1)
    assert parsed(document).records.equals(chunk.records)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["chart", "result", "meta", "symbol", "timestamp", "indicators", "quote", "close", "error"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_document_is_read_or_rejected(document: Any) -> None:
    try:
        parsed(document)
    except FileRejected:
        return


@given(st.datetimes(datetime(2015, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)))
def test_a_chart_of_any_day_has_its_buckets_at_their_local_times(moment: datetime) -> None:
    start = int(moment.timestamp()) // 300 * 300
    times = [start - 300 * back for back in range(300)]
    document = chart(BARS)
    document["chart"]["result"][0] |= {"timestamp": times, "indicators": {"quote": [{"close": [100.5] * 300}]}}
    chunk = parsed(document)
    assert (chunk.rejects, chunk.absent) == ([], 0)
    for row in chunk.records.to_pylist():
        assert to_local(row["ts"]).date() == to_local(datetime.fromtimestamp(start, UTC)).date()
        assert f"{to_local(row['ts']):dxy_%Hh%M}" == row["bucket"]
