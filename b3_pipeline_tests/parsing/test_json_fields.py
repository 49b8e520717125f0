from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime

import pytest

from b3_pipeline.parsing.gathering import Fault
from b3_pipeline.parsing.json_fields import (
    Cell,
    checked_text,
    read_date,
    read_hour,
    read_moment,
    read_month,
    read_number,
    read_text,
)
from b3_pipeline.parsing.json_text import decode
from b3_pipeline.parsing.months import is_code
from b3_pipeline.parsing.records import Reason
from b3_pipeline.tables import FINITE, Range

ABSENT = ["null", '""', '" - "', '"N/A"', '"null"']


def cell(json: str) -> Cell:
    return Cell("/block", "a/b", decode(json.encode()).root)


def fault_of(read: Callable[[Cell], object], json: str) -> Fault:
    with pytest.raises(Fault) as caught:
        read(cell(json))
    assert caught.value.column == "/block/a~1b"
    return caught.value


@pytest.mark.parametrize("json", ABSENT)
def test_a_mark_of_absence_is_no_value_of_any_type(json: str) -> None:
    assert read_number(cell(json), FINITE) is None
    assert read_text(cell(json)) is None
    assert read_date(cell(json), "/") is None
    assert read_hour(cell(json)) is None


@pytest.mark.parametrize(
    ("json", "number"),
    [
        ("5528.504", 5528.504),
        ('"5.528,504"', 5528.504),
        ('"5,528.504"', 5528.504),
        ('"+0,26"', 0.26),
        ("-0.26", -0.26),
        ("1.5e3", 1500.0),
        ('" 14,90 "', 14.9),
        ('"6.700"', 6.7),
    ],
)
def test_a_number_is_read_in_either_notation_and_as_a_json_number(json: str, number: float) -> None:
    assert read_number(cell(json), FINITE) == number


@pytest.mark.parametrize(
    ("json", "reason"),
    [
        ("true", Reason.BAD_NUMBER),
        ("false", Reason.BAD_NUMBER),
        ("[1]", Reason.BAD_NUMBER),
        ('{"a": 1}', Reason.BAD_NUMBER),
        ("NaN", Reason.BAD_NUMBER),
        ("-Infinity", Reason.BAD_NUMBER),
        ('"n.d."', Reason.BAD_NUMBER),
        ('"1e3"', Reason.BAD_NUMBER),
        ("1e999", Reason.OUT_OF_BOUNDS),
        ("9" * 1000, Reason.OUT_OF_BOUNDS),
        ('"' + "9" * 5000 + '"', Reason.OUT_OF_BOUNDS),
        ("100.5", Reason.OUT_OF_BOUNDS),
    ],
)
def test_what_is_no_number_or_lies_outside_is_a_fault_with_the_cell(json: str, reason: Reason) -> None:
    fault = fault_of(lambda c: read_number(c, Range(0, 100)), json)
    assert fault.reason is reason
    assert fault.value == json.strip('"')


@pytest.mark.parametrize(
    ("json", "reason"),
    [
        ("null", Reason.MISSING_CONTRACT),
        ('"-"', Reason.MISSING_CONTRACT),
        ('"nov-25"', Reason.BAD_CONTRACT),
        ('"x25"', Reason.BAD_CONTRACT),
        ("25", Reason.BAD_CONTRACT),
        ("{}", Reason.BAD_CONTRACT),
    ],
)
def test_a_contract_month_is_there_and_in_its_form(json: str, reason: Reason) -> None:
    assert read_month(cell('" X25 "'), is_code) == "X25"
    assert fault_of(lambda c: read_month(c, is_code), json).reason is reason


@pytest.mark.parametrize("json", ['"31/02/2025"', '"13-10-2025"', '"2025-10-13"', "20251013", "false"])
def test_a_wrong_date_is_a_fault(json: str) -> None:
    assert read_date(cell('"13/10/2025"'), "/") == date(2025, 10, 13)
    assert fault_of(lambda c: read_date(c, "/"), json).reason is Reason.BAD_DATE


@pytest.mark.parametrize("json", ['"25:00:00"', '"9:00"', "9", "[]"])
def test_a_wrong_hour_is_a_fault_and_a_right_one_stays_as_written(json: str) -> None:
    assert read_hour(cell('"09:00:32"')) == "09:00:32"
    assert fault_of(read_hour, json).reason is Reason.BAD_TIME


def test_a_moment_is_local_where_it_has_no_zone_and_true_utc_in_the_end() -> None:
    assert read_moment(cell('"2025-10-13T08:50:00"')) == datetime.fromisoformat("2025-10-13T11:50:00")
    assert read_moment(cell('"2025-10-13T11:50:00Z"')) == datetime.fromisoformat("2025-10-13T11:50:00")
    assert read_moment(cell('"2018-12-03T08:50:00"')) == datetime.fromisoformat("2018-12-03T10:50:00")


@pytest.mark.parametrize(
    ("json", "reason"),
    [
        ("null", Reason.BAD_DATE),
        ('""', Reason.BAD_DATE),
        ("1760356232", Reason.BAD_DATE),
        ('"13/10/2025 09:00:32"', Reason.BAD_DATE),
        ('"2025-02-30T09:00:32"', Reason.BAD_DATE),
        ('"1066-10-14T09:00:00"', Reason.BAD_DATE),
        ('"2025-10-13T25:00:00"', Reason.BAD_TIME),
        ('"2018-11-04T00:30:00"', Reason.NONEXISTENT_TIME),
    ],
)
def test_a_moment_that_cannot_be_is_a_fault(json: str, reason: Reason) -> None:
    assert fault_of(read_moment, json).reason is reason


@pytest.mark.parametrize("json", ["1", "true", "[]", r'"a\u0000b"', r'"a\nb"'])
def test_a_text_is_a_text_without_control_characters(json: str) -> None:
    assert read_text(cell('" sucesso "')) == "sucesso"
    assert fault_of(read_text, json).reason is Reason.BAD_TEXT


def test_a_blank_name_is_a_fault() -> None:
    with pytest.raises(Fault, match="bad_text"):
        checked_text(" ", "/indicadores_financeiros/ ")
