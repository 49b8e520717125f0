"""TP-Capital's lists: each record by the rules of its table, every candidate accounted for."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.parsing.kinds import TP_KINDS, Parsing
from b3_pipeline.parsing.records import COLUMN, LINE, TEXT, Chunk, EmptyFile, FileRejected, record_schema
from b3_pipeline.parsing.times import BadDate, BadTime
from b3_pipeline.parsing.tp_capital import parse_moment
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.signals.exports import BOT, CHANNEL, SIGNAL

SIGNALS, BOTS, CHANNELS = "tp_capital_signals", "telegram_bots", "telegram_channels"
KINDS = {kind.tables[0]: kind for kind in TP_KINDS}
EXAMPLES = {SIGNALS: SIGNAL, BOTS: BOT, CHANNELS: CHANNEL}


def parsing(document: object, table: str = SIGNALS) -> Parsing:
    data = document if isinstance(document, bytes) else json.dumps(document, ensure_ascii=False).encode()
    return KINDS[table].parse(io.BytesIO(data), TABLES[table])


def parsed(document: object, table: str = SIGNALS) -> Chunk:
    (chunk,) = parsing(document, table).chunks
    assert chunk.records.schema == record_schema(TABLES[table])
    return chunk


def signal(**members: object) -> Chunk:
    return parsed([{**SIGNAL, **members}])


def fault(chunk: Chunk) -> tuple[str, str | None, str | None]:
    assert chunk.records.num_rows == 0
    [reject] = chunk.rejects
    return str(reject.reason), reject.column, reject.value


@pytest.mark.parametrize("folder", ["clean", "dirty"])
@pytest.mark.parametrize("table", [SIGNALS, BOTS, CHANNELS])
def test_the_recorded_lists_give_the_records_that_are_expected_of_them(shared: Path, folder: str, table: str) -> None:
    source = shared / "data" / "lowdb" / folder
    expected = json.loads((source / "EXPECTED.json").read_text())["tables"][table]
    chunk = parsed((source / f"{table}.json").read_bytes(), table)
    assert chunk.candidates == expected["candidates"]
    conflicting = 1 if (folder, table) == ("dirty", SIGNALS) else 0  # which is the load's to find
    assert len(chunk.rejects) == expected["rejected"] - conflicting


def test_the_recorded_faults_are_named(shared: Path) -> None:
    chunk = parsed((shared / "data" / "lowdb" / "dirty" / "tp_capital_signals.json").read_bytes())
    found = sorted((str(r.reason), (r.column or "").rpartition("/")[2]) for r in chunk.rejects)
    assert found == [
        ("bad_date", "timestamp"),
        ("bad_text", "asset"),
        ("out_of_bounds", "buyMax"),
        ("out_of_bounds", "stop"),
    ]


def test_a_signal_fills_the_columns_of_its_table() -> None:
    [row] = signal().records.to_pylist()
    assert row == {
        "ts": datetime.fromisoformat("2025-10-11T12:15:40"),
        "channel": "TP CAPITAL | OPCOES",
        "signal_type": "Swing Trade",
        "asset": "ITUBX36",
        "buy_min": 0.62,
        "buy_max": 0.66,
        "target_1": 0.87,
        "target_2": 1.24,
        "target_final": None,
        "stop": 0.37,
        "raw_message": "TIPO Swing Trade\nATIVO ITUBX36",
        "source": "ingestion",
        LINE: None,
        COLUMN: "/0",
        TEXT: json.dumps(SIGNAL),
    }


def test_a_channel_keeps_its_long_number_and_its_times() -> None:
    [row] = parsed([{**CHANNEL, "last_signal": None, "signal_count": 0}], CHANNELS).records.to_pylist()
    assert (row["channel_id"], row["signal_count"], row["last_signal"]) == (-1001234567000, 0, None)
    assert row["created_at"] == datetime.fromisoformat("2025-09-01T12:00:00")
    assert row["description"] is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("2025-10-11 12:15:40Z", BadDate),
        ("2025-10-11T12:15:40", BadDate),
        ("2025-10-11T12:15:40+00:00", BadDate),
        ("2025-10-11T12:15:40.000Z", BadDate),
        ("2025-10-11T12:15Z", BadDate),
        (" 2025-10-11T12:15:40Z", BadDate),
        ("2025-10-11T12:15:40Z\n", BadDate),
        ("11/10/2025 12:15:40", BadDate),
        ("٢٠٢٥-10-11T12:15:40Z", BadDate),
        ("2025-02-30T12:15:40Z", BadDate),
        ("1970-01-01T00:00:00Z", BadDate),
        ("2025-10-11T24:00:00Z", BadTime),
        ("2025-10-11T23:59:60Z", BadTime),
    ],
)
def test_a_moment_has_exactly_one_form(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_moment(text)
    reason = "bad_date" if error is BadDate else "bad_time"
    assert fault(signal(timestamp=text)) == (reason, "/0/timestamp", text)
    assert fault(parsed([{**CHANNEL, "last_signal": text}], CHANNELS)) == (reason, "/0/last_signal", text)


@given(st.datetimes(datetime(1971, 1, 1), datetime(2261, 12, 31), timezones=st.just(UTC)))
def test_a_moment_is_the_utc_that_it_says_in_every_hour_of_the_year(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    assert parse_moment(f"{moment:%Y-%m-%dT%H:%M:%SZ}") == moment.replace(tzinfo=None)


def test_an_hour_that_brasilia_had_twice_is_two_in_utc() -> None:
    first = datetime(2018, 2, 18, 1, 30)
    documents = [{**SIGNAL, "timestamp": f"{first + timedelta(hours=h):%Y-%m-%dT%H:%M:%SZ}"} for h in (0, 1)]
    assert parsed(documents).records["ts"].to_pylist() == [first, first + timedelta(hours=1)]


@pytest.mark.parametrize("missing", [None, "", "  ", "-", "N/A"])
@pytest.mark.parametrize(
    ("table", "member", "reason"),
    [
        (SIGNALS, "timestamp", "bad_date"),
        (SIGNALS, "channel", "bad_text"),
        (SIGNALS, "signalType", "bad_text"),
        (SIGNALS, "asset", "bad_text"),
        (BOTS, "id", "bad_text"),
        (BOTS, "updated_at", "bad_date"),
        (CHANNELS, "id", "bad_text"),
        (CHANNELS, "updated_at", "bad_date"),
    ],
)
def test_a_record_without_its_key_is_rejected(table: str, member: str, reason: str, missing: str | None) -> None:
    document = {**EXAMPLES[table], member: missing}
    assert fault(parsed([document], table)) == (reason, f"/0/{member}", missing)
    del document[member]
    assert fault(parsed([document], table)) == (reason, f"/0/{member}", None)


@pytest.mark.parametrize("price", [0, -0.37, "0", "1e999", 1e-400])
def test_a_price_that_is_given_is_above_zero(price: object) -> None:
    assert fault(signal(stop=price))[0] in ("out_of_bounds", "bad_number")


@pytest.mark.parametrize("price", ["barato", True, [], {}, "0.62-0.66", float("nan"), float("inf")])
def test_a_price_that_is_no_number_is_rejected(price: object) -> None:
    assert fault(signal(target1=price))[:2] == ("bad_number", "/0/target1")


def test_prices_that_are_not_given_are_absent() -> None:
    nothing = dict.fromkeys(("buyMin", "buyMax", "target1", "target2", "targetFinal", "stop"))
    [row] = signal(**nothing).records.to_pylist()
    assert {row[c] for c in ("buy_min", "buy_max", "target_1", "target_2", "target_final", "stop")} == {None}


@pytest.mark.parametrize(("low", "high", "stands"), [(1, 1, True), (1, 2, True), (2, 1, False), (2, None, True)])
def test_buying_ends_where_it_begins_or_above(low: float, high: float | None, stands: bool) -> None:
    chunk = signal(buyMin=low, buyMax=high)
    if stands:
        assert chunk.records.num_rows == 1
    else:
        assert fault(chunk) == ("out_of_bounds", "/0/buyMax", "1")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (60.5, "bad_number"),
        ("1.234", "bad_number"),
        ("many", "bad_number"),
        (True, "bad_number"),
        (-1, "out_of_bounds"),
        (2**63, "out_of_bounds"),
        ("9" * 5_000, "out_of_bounds"),
    ],
)
def test_a_count_is_a_whole_number_that_a_long_can_hold(number: object, reason: str) -> None:
    assert fault(parsed([{**CHANNEL, "signal_count": number}], CHANNELS))[:2] == (reason, "/0/signal_count")


def test_a_message_keeps_its_lines_and_its_white_space() -> None:
    message = " COMPRA\t0.62\r\n- stop: 0.37 ⚠ \n"
    assert signal(rawMessage=message).records["raw_message"].to_pylist() == [message]
    assert signal(rawMessage="-").records["raw_message"].to_pylist() == ["-"]


@pytest.mark.parametrize("text", ["a\x00b", "\x1b[31m", 7, ["a"]])
def test_a_message_with_other_control_characters_or_of_another_type_is_rejected(text: object) -> None:
    assert fault(signal(rawMessage=text))[:2] == ("bad_text", "/0/rawMessage")


def test_a_name_has_no_line_breaks() -> None:
    assert fault(signal(channel="a\nb"))[:2] == ("bad_text", "/0/channel")


def test_what_is_no_record_is_rejected_and_a_null_is_absent() -> None:
    chunk = parsed([SIGNAL, "x", 3, [SIGNAL], None, SIGNAL])
    assert (chunk.candidates, chunk.records.num_rows, chunk.absent) == (6, 2, 1)
    assert [(str(r.reason), r.column) for r in chunk.rejects] == [
        ("bad_text", "/1"),
        ("bad_text", "/2"),
        ("bad_text", "/3"),
    ]


@pytest.mark.parametrize("document", [{"signals": [SIGNAL]}, SIGNAL, "x", None, b"[{]", b"[", b"<html>"])
def test_a_file_that_is_no_json_list_is_rejected_whole(document: object) -> None:
    with pytest.raises(FileRejected):
        parsing(document)


def test_a_file_with_nothing_in_it_is_empty_and_a_list_without_records_has_none() -> None:
    with pytest.raises(EmptyFile):
        parsing(b"")
    assert parsed([]).candidates == 0


def test_members_that_fill_no_column_are_named_once() -> None:
    documents = [{**SIGNAL, "createdAt": 1}, {**SIGNAL, "createdAt": 2, "id": 3}, 4]
    assert parsing(documents).ignored == ("createdAt", "id")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["1,5", "-", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def documents(draw: st.DrawFn, table: str) -> list[Any]:
    """Lists of records of which some members are anything."""
    changes = st.dictionaries(st.sampled_from(sorted(EXAMPLES[table])), VALUES, max_size=3)
    return draw(st.lists(changes.map(lambda change: {**EXAMPLES[table], **change}) | VALUES, max_size=6))


@given(st.data(), st.sampled_from(sorted(EXAMPLES)))
def test_every_candidate_of_any_list_is_accounted_for(data: st.DataObject, table: str) -> None:
    document = data.draw(documents(table))
    chunk = parsed(document, table)
    assert chunk.candidates == len(document)
    for row in chunk.records.to_pylist():
        assert all(row[key] is not None for key in TABLES[table].keys)
        for column in TABLES[table].parsed:
            value = row[column.name]
            assert value is None or column.type not in ("DOUBLE", "LONG") or column.bounds().holds(value)
