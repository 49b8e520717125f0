from __future__ import annotations

import pytest

from b3_pipeline.parsing.gathering import Fault, Gathering, Row, parse_cell, within
from b3_pipeline.parsing.numbers import parse_number
from b3_pipeline.parsing.records import COLUMN, LINE, TEXT, Reason, Reject, record_schema
from b3_pipeline.parsing.times import parse_iso_date, parse_time
from b3_pipeline.tables import TABLES, Range

TABLE = TABLES["b3_indicators_daily"]


def test_each_candidate_ends_as_a_row_a_reject_or_an_absence() -> None:
    def read(outcome: Row | Fault | None) -> Row | None:
        if isinstance(outcome, Fault):
            raise outcome
        return outcome

    gathering = Gathering(TABLE)
    for text, outcome in [
        ("first", {"indicator": "taxa_selic", "value": 14.9}),
        ("second", Fault(Reason.BAD_NUMBER, "/b", "x")),
        ("third", None),
        ("fourth", {"indicator": "taxa_sofr", "value": 4.1}),
    ]:
        gathering.candidate(f"/{text}", text, read, outcome)
    chunk = gathering.chunk()

    assert chunk.records.schema == record_schema(TABLE)
    assert chunk.records.select(["indicator", LINE, COLUMN, TEXT]).to_pylist() == [
        {"indicator": "taxa_selic", LINE: None, COLUMN: "/first", TEXT: "first"},
        {"indicator": "taxa_sofr", LINE: None, COLUMN: "/fourth", TEXT: "fourth"},
    ]
    assert chunk.rejects == [Reject(None, "/b", "second", Reason.BAD_NUMBER, "x")]
    assert (chunk.absent, chunk.candidates) == (1, 4)


def test_an_error_of_ours_is_no_fault_of_a_record() -> None:
    def broken() -> Row:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        Gathering(TABLE).candidate("/a", "text", broken)


@pytest.mark.parametrize(
    ("parse", "text", "reason"),
    [
        (parse_number, "n.d.", Reason.BAD_NUMBER),
        (parse_iso_date, "2026-02-30", Reason.BAD_DATE),
        (parse_time, "25:00", Reason.BAD_TIME),
    ],
)
def test_what_a_parser_refuses_is_a_fault_with_its_reason(parse: object, text: str, reason: Reason) -> None:
    assert callable(parse)
    with pytest.raises(Fault) as caught:
        parse_cell(parse, "/a", text)
    assert (caught.value.reason, caught.value.column, caught.value.value) == (reason, "/a", text)


def test_a_number_is_within_its_bounds_or_a_fault_and_an_absent_one_is_within() -> None:
    bounds = Range(0, 10, low_open=True)
    assert within(bounds, 10.0, "/a", "10") == 10.0
    assert within(bounds, None, "/a", "") is None
    with pytest.raises(Fault, match="out_of_bounds in /a: '0'"):
        within(bounds, 0.0, "/a", "0")
