"""The four wide files: every record is accounted for, and none lands in another's place."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline import sessions
from b3_pipeline.parsing import legacy_csv
from b3_pipeline.parsing.csv_rows import EmptyFile
from b3_pipeline.parsing.legacy_csv import (
    ADJUSTMENTS,
    DXY,
    INDICATORS,
    LEGACY_CSV,
    SURFACE,
    Cell,
    CsvSpec,
    WideRecord,
    parse_csv,
)
from b3_pipeline.parsing.months import CODE_LETTERS, MONTH_NAMES, is_code, is_tenor
from b3_pipeline.parsing.numbers import BadNumber, is_absent, parse_number
from b3_pipeline.parsing.records import COLUMN, LINE, TEXT, Chunk, FileRejected, Reason, record_schema
from b3_pipeline.parsing.times import BadDate, BadTime, parse_date, parse_time

DELTAS = (1, 5, 10, 25, 37, 50, 63, 75, 90, 95, 99)
TIME = {"data": "07-01-2025", "hora": "09:32:25"}
#: A good row of each file, in the file's own order of columns.
GOOD: dict[str, dict[str, str]] = {
    ADJUSTMENTS.file: {
        **TIME,
        **{"ddi_vencimento": "G25", "ddi_preco_numerico": "102378.93", "ddi_preco_anterior_numerico": "102370.93"},
        **{"di1_vencimento": "H25", "di1_preco_numerico": "98.532,10", "di1_preco_anterior_numerico": "98531,10"},
        **{"dol_vencimento": "J25", "dol_preco_numerico": "5864.779", "dol_preco_anterior_numerico": "5860.779"},
        "status": "migrado",
    },
    INDICATORS.file: {
        **TIME,
        **{"taxa_selic": "13,15", "taxa_sofr": "4.12", "dolar_cupom_limpo": "5,8320", "dif_oper_casada": "-29.23"},
    },
    SURFACE.file: {
        **TIME,
        "mes": "jun-25",
        **{f"delta_{delta}": f"{20 + delta / 100:.2f}" for delta in DELTAS},
        "data_atualizacao": "06/01/2025",
    },
    DXY.file: {
        "data": "07-01-2025",
        **{"dxy_08h50": "-0.49", "dxy_08h55": "+0,47", "dxy_09h00": "0.48"},
        "fonte": "Yahoo Finance",
        **{"status_08h50": "sucesso", "status_08h55": "sucesso", "status_09h00": "sucesso"},
    },
}
SPECS = pytest.mark.parametrize("spec", LEGACY_CSV.values(), ids=list(LEGACY_CSV))


def written(spec: CsvSpec, *rows: dict[str, str]) -> bytes:
    """A file with the good row changed as each of `rows` says."""
    good = GOOD[spec.file]
    lines = [",".join(good), *(",".join(f'"{cell}"' for cell in (good | row).values()) for row in rows)]
    return "\n".join(lines).encode()


def parse(spec: CsvSpec, data: bytes) -> Chunk:
    """All chunks of a file as one, after checking what holds for every chunk."""
    chunks = list(parse_csv(spec, io.BytesIO(data)))
    for chunk in chunks:
        assert chunk.records.schema.equals(record_schema(spec.table))
        chunk.records.validate(full=True)
        assert chunk.candidates % len(spec.records) == 0
    records = pa.concat_tables([record_schema(spec.table).empty_table(), *(chunk.records for chunk in chunks)])
    rejects = [reject for chunk in chunks for reject in chunk.rejects]
    return Chunk(records, rejects, sum(chunk.absent for chunk in chunks))


def faults(chunk: Chunk) -> list[tuple[int | None, str | None, str, str | None]]:
    return [(reject.line, reject.column, reject.reason.value, reject.value) for reject in chunk.rejects]


@SPECS
@pytest.mark.parametrize("folder", ["clean", "dirty"])
def test_the_recorded_files_give_the_recorded_counts(shared: Path, spec: CsvSpec, folder: str) -> None:
    source = shared / "data" / "legacy" / folder
    expected = json.loads((source / "EXPECTED.json").read_text())["tables"][spec.table.name]
    chunk = parse(spec, (source / spec.file).read_bytes())
    # The surface's table gets 22 records of each capture too; in dirty one capture more comes twice.
    of_captures = {"clean": 44, "dirty": 66}[folder] if spec is SURFACE else 0
    repeated = {ADJUSTMENTS.file: 6}.get(spec.file, 0) if folder == "dirty" else 0  # 5 equal, 1 conflicting
    conflicting = 1 if repeated else 0
    assert chunk.candidates == expected["candidates"] - of_captures
    assert chunk.absent == expected["absent"]
    assert len(chunk.rejects) == expected["rejected"] - conflicting
    loaded_of_captures = of_captures - expected["duplicate"] if spec is SURFACE else 0
    assert chunk.records.num_rows == expected["loaded"] - loaded_of_captures + repeated


def test_an_adjustments_row_gives_a_record_an_instrument() -> None:
    chunk = parse(ADJUSTMENTS, written(ADJUSTMENTS, {}))
    shared_columns: dict[str, Any] = {
        "ts": datetime.fromisoformat("2025-01-07T12:32:25"),
        "status": "migrado",
        "trade_date": date(2025, 1, 6),
        "settlement_rate": None,
        "open_interest": None,
        LINE: 2,
        TEXT: None,
    }
    prices = [
        ("DDI", "G25", 102378.93, 102370.93, "ddi_preco_numerico"),
        ("DI1", "H25", 98532.10, 98531.10, "di1_preco_numerico"),
        ("DOL", "J25", 5864.779, 5860.779, "dol_preco_numerico"),
    ]
    names = ("instrument", "contract_month", "price_settlement", "price_prev", COLUMN)
    assert chunk.records.to_pylist() == [shared_columns | dict(zip(names, each, strict=True)) for each in prices]


def test_an_indicators_row_gives_a_record_a_column() -> None:
    records = parse(INDICATORS, written(INDICATORS, {})).records.select(["indicator", "value", COLUMN]).to_pylist()
    assert [tuple(record.values()) for record in records] == [
        ("taxa_selic", 13.15, "taxa_selic"),
        ("taxa_sofr", 4.12, "taxa_sofr"),
        ("dolar_cupom_limpo", 5.832, "dolar_cupom_limpo"),
        ("dif_oper_casada", -29.23, "dif_oper_casada"),
    ]


def test_a_surface_row_gives_a_record_a_delta() -> None:
    records = parse(SURFACE, written(SURFACE, {})).records.to_pylist()
    assert [(each["delta_bucket"], each["volatility"]) for each in records] == [
        (f"delta_{delta}", round(20 + delta / 100, 2)) for delta in DELTAS
    ]
    assert {(each["contract_month"], each["updated_at"]) for each in records} == {("jun-25", date(2025, 1, 6))}


def test_a_dxy_buckets_time_is_in_its_name() -> None:
    records = parse(DXY, written(DXY, {})).records.to_pylist()
    assert [(f"{each['ts']:%H:%M}", each["bucket"], each["value"]) for each in records] == [
        ("11:50", "dxy_08h50", -0.49),
        ("11:55", "dxy_08h55", 0.47),
        ("12:00", "dxy_09h00", 0.48),
    ]
    assert {(each["status"], each["provider"]) for each in records} == {("sucesso", "Yahoo Finance")}


@pytest.mark.parametrize(
    ("cells", "column", "reason"),
    [
        ({"data": "32-13-2025", "hora": "x"}, "data", "bad_date"),
        ({"data": ""}, "data", "bad_date"),
        ({"hora": "25:99:00"}, "hora", "bad_time"),
        ({"data": "04-11-2018", "hora": "00:30:00"}, "hora", "nonexistent_time"),
        ({"data": "32-13-2025", "di1_preco_numerico": "", "dol_preco_numerico": "abc"}, "data", "bad_date"),
    ],
)
def test_an_impossible_moment_rejects_all_records_of_the_row(cells: dict[str, str], column: str, reason: str) -> None:
    chunk = parse(ADJUSTMENTS, written(ADJUSTMENTS, cells, {}))
    assert faults(chunk) == [(2, column, reason, (GOOD[ADJUSTMENTS.file] | cells)[column])] * 3
    assert chunk.records.num_rows == 3
    assert chunk.absent == 0


@pytest.mark.parametrize(
    ("cells", "column", "reason"),
    [
        ({"ddi_preco_numerico": "abc"}, "ddi_preco_numerico", "bad_number"),
        ({"ddi_preco_numerico": "inf"}, "ddi_preco_numerico", "bad_number"),
        ({"ddi_preco_numerico": "9" * 400}, "ddi_preco_numerico", "out_of_bounds"),
        ({"dol_preco_numerico": "5.864"}, "dol_preco_numerico", "out_of_bounds"),
        ({"di1_preco_numerico": "-99.121,69"}, "di1_preco_numerico", "out_of_bounds"),
        ({"di1_preco_anterior_numerico": "xx"}, "di1_preco_anterior_numerico", "bad_number"),
        ({"di1_preco_anterior_numerico": "1"}, "di1_preco_anterior_numerico", "out_of_bounds"),
        ({"di1_vencimento": ""}, "di1_vencimento", "missing_contract"),
        ({"di1_vencimento": "jun-25"}, "di1_vencimento", "bad_contract"),
        ({"di1_vencimento": "N/A", "di1_preco_numerico": "x"}, "di1_vencimento", "missing_contract"),
        ({"di1_preco_numerico": "x", "di1_preco_anterior_numerico": "x"}, "di1_preco_numerico", "bad_number"),
    ],
)
def test_a_wrong_cell_rejects_its_record_alone(cells: dict[str, str], column: str, reason: str) -> None:
    chunk = parse(ADJUSTMENTS, written(ADJUSTMENTS, cells))
    assert faults(chunk) == [(2, column, reason, cells[column])]
    assert chunk.rejects[0].text == written(ADJUSTMENTS, cells).decode().splitlines()[1]
    assert chunk.records.num_rows == 2


def test_a_record_without_its_value_is_absent_whatever_else_is_there() -> None:
    cells = {"di1_vencimento": "??", "di1_preco_numerico": "-", "di1_preco_anterior_numerico": "xx"}
    chunk = parse(ADJUSTMENTS, written(ADJUSTMENTS, cells))
    assert (chunk.records.num_rows, chunk.rejects, chunk.absent) == (2, [], 1)


def test_an_absent_cell_other_than_the_value_loads_as_null() -> None:
    records = parse(ADJUSTMENTS, written(ADJUSTMENTS, {"ddi_preco_anterior_numerico": "N/A", "status": ""})).records
    assert records.column("price_prev").to_pylist() == [None, 98531.10, 5860.779]
    assert records.column("status").to_pylist() == [None] * 3
    assert set(parse(SURFACE, written(SURFACE, {"data_atualizacao": "-"})).records["updated_at"].to_pylist()) == {None}


def test_a_wrong_date_of_update_rejects() -> None:
    chunk = parse(SURFACE, written(SURFACE, {"data_atualizacao": "06-01-2025", "delta_5": ""}))
    assert faults(chunk) == [(2, "data_atualizacao", "bad_date", "06-01-2025")] * 10
    assert chunk.absent == 1


def test_an_unknown_status_is_kept_and_an_unprintable_one_is_not() -> None:
    assert parse(DXY, written(DXY, {"status_08h50": "parcial"})).records["status"].to_pylist()[0] == "parcial"
    chunk = parse(ADJUSTMENTS, written(ADJUSTMENTS, {"status": "a\x00b"}))
    assert faults(chunk) == [(2, "status", "bad_text", "a\x00b")] * 3


def test_a_failed_reading_with_a_value_is_rejected_and_without_one_absent() -> None:
    chunk = parse(DXY, written(DXY, {"status_08h50": "falha"}, {"status_08h55": "falha", "dxy_08h55": ""}))
    assert faults(chunk) == [(2, "status_08h50", "status_failed", "falha")]
    assert (chunk.records.num_rows, chunk.absent) == (4, 1)


def test_an_evening_row_belongs_to_its_own_session() -> None:
    records = parse(ADJUSTMENTS, written(ADJUSTMENTS, {"hora": "18:00"})).records
    assert set(records["trade_date"].to_pylist()) == {date(2025, 1, 7)}


@SPECS
def test_a_row_of_another_length_is_rejected_whole_and_never_shifted(spec: CsvSpec) -> None:
    data = written(spec, {}) + b"\n07-01-2025,1\n\n" + written(spec, {}).splitlines()[1] + b",1\n"
    chunk = parse(spec, data)
    values = [spec.value_cell(record).source for record in spec.records]
    assert faults(chunk) == [(line, value, "field_count", None) for line in (3, 5) for value in values]
    assert [reject.record for reject in chunk.rejects] == values * 2
    assert chunk.rejects[0].text == "07-01-2025,1"
    assert chunk.records.num_rows == len(spec.records)


@SPECS
def test_a_missing_column_rejects_the_file_and_is_named(spec: CsvSpec) -> None:
    last = list(GOOD[spec.file])[-1]
    with pytest.raises(FileRejected, match=last):
        parse_csv(spec, io.BytesIO(written(spec, {}).replace(last.encode(), b"outra")))


def test_a_foreign_file_is_rejected_and_an_empty_one_is_empty() -> None:
    with pytest.raises(FileRejected, match="is not dxy_coleta"):
        parse_csv(DXY, io.BytesIO(b"<!DOCTYPE html>\n<html></html>"))
    with pytest.raises(EmptyFile):
        parse_csv(DXY, io.BytesIO(b"\n"))


def test_an_unknown_column_is_ignored_and_reported() -> None:
    data = b"nota,data,hora,taxa_selic,taxa_sofr,dolar_cupom_limpo,dif_oper_casada,\nx,07-01-2025,09:17,1,2,3,4,\n"
    parsed = parse_csv(INDICATORS, io.BytesIO(data))
    assert parsed.ignored_columns == ("nota",)
    assert [chunk.records["value"].to_pylist() for chunk in parsed] == [[1.0, 2.0, 3.0, 4.0]]


# What one record of one row must become, told by the scalar parsers alone: the other side of the comparison.


@dataclass(frozen=True)
class Fault(Exception):
    column: str
    reason: Reason


def told(spec: CsvSpec, record: WideRecord, row: dict[str, str]) -> dict[str, Any] | Fault | None:
    """The record's columns, why it is rejected, or None where it is absent."""
    try:
        local = told_moment(record, row)
        if is_absent(row[spec.value_cell(record).source]):
            return None
        cells = {cell.target: told_cell(spec, record, cell, row[cell.source].strip()) for cell in record.cells}
    except Fault as fault:
        return fault
    trade_date = {spec.trade_date: sessions.trade_date(local)} if spec.trade_date else {}
    return {"ts": sessions.to_utc(local), **record.constants, **cells, **trade_date}


def told_moment(record: WideRecord, row: dict[str, str]) -> datetime:
    try:
        day = parse_date(row["data"], "-")
    except BadDate:
        raise Fault("data", Reason.BAD_DATE) from None
    try:
        local = datetime.combine(day, record.at or parse_time(row["hora"]))
        sessions.to_utc(local)
    except BadTime:
        raise Fault("hora", Reason.BAD_TIME) from None
    except sessions.NonexistentTime:
        raise Fault("hora", Reason.NONEXISTENT_TIME) from None
    return local


def told_cell(spec: CsvSpec, record: WideRecord, cell: Cell, text: str) -> Any:
    column = spec.table.column(cell.target)
    if cell.target == "contract_month":
        if not (is_tenor if cell.source == "mes" else is_code)(text):
            raise Fault(cell.source, Reason.MISSING_CONTRACT if is_absent(text) else Reason.BAD_CONTRACT)
        return text
    if is_absent(text):
        return None
    if cell.kind is legacy_csv.number:
        try:
            value = parse_number(text)
        except BadNumber:
            raise Fault(cell.source, Reason.BAD_NUMBER) from None
        if value is None or not column.bounds(record.constants.get(column.bounds_by or "")).holds(value):
            raise Fault(cell.source, Reason.OUT_OF_BOUNDS)
        return value
    if cell.kind is legacy_csv.slashed_date:
        try:
            return parse_date(text, "/")
        except BadDate:
            raise Fault(cell.source, Reason.BAD_DATE) from None
    if cell.kind is legacy_csv.success and text == "falha":
        raise Fault(cell.source, Reason.STATUS_FAILED)
    return text


def cells_of(name: str, good: str) -> st.SearchStrategy[str]:
    """Texts for a column: mostly what belongs there, in any notation; also what does not."""
    wrong = st.sampled_from(["", "-", "N/A", "null", "n.d.", "abc", "0", "-1", "4,1,3", "99999999", "falha", " "])
    if name == "data":
        right = st.dates(date(2017, 1, 1), date(2026, 12, 31)).map(lambda day: f"{day:%d-%m-%Y}")
        wrong |= st.sampled_from(["04-11-2018", "31-02-2025", "7-1-2025"])
    elif name == "hora":
        right = st.times().map(lambda moment: f"{moment:%H:%M:%S}")
        wrong |= st.sampled_from(["24:00:00", "00:30:00"])
    elif name == "data_atualizacao":
        right = st.dates(date(2017, 1, 1), date(2026, 12, 31)).map(lambda day: f"{day:%d/%m/%Y}")
    elif name == "mes":
        right = st.sampled_from([f"{month}-25" for month in MONTH_NAMES])
    elif name.endswith("vencimento"):
        right = st.sampled_from([f"{letter}26" for letter in CODE_LETTERS])
    elif good[-1].isdigit():
        value = parse_number(good) or 0.0
        right = st.floats(0.9, 1.1).map(lambda factor: f"{value * factor:,.3f}").flatmap(in_any_notation)
    else:
        right = st.sampled_from([good, "outro texto", "açaí"])
    return st.one_of(right, right, right, wrong)


def in_any_notation(english: str) -> st.SearchStrategy[str]:
    bare = english.replace(",", "")
    return st.sampled_from([english, bare, bare.replace(".", ","), english.translate(str.maketrans(",.", ".,"))])


@st.composite
def files(draw: st.DrawFn) -> tuple[CsvSpec, list[dict[str, str]], bytes]:
    """A file with any order of columns, separator, newline and encoding, and its rows."""
    spec = draw(st.sampled_from(list(LEGACY_CSV.values())))
    good = GOOD[spec.file]
    rows = draw(
        st.lists(st.fixed_dictionaries({name: cells_of(name, text) for name, text in good.items()}), max_size=6)
    )
    order = draw(st.permutations([*good, "coluna nova"]))
    separator, newline = draw(st.sampled_from([",", ";"])), draw(st.sampled_from(["\n", "\r\n"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "latin-1"]))
    lines = [order, *([f'"{row.get(name, "1,2;3")}"' for name in order] for row in rows)]
    return spec, rows, newline.join(separator.join(line) for line in lines).encode(encoding)


@given(files())
def test_every_record_becomes_what_the_scalar_rules_say(
    generated: tuple[CsvSpec, list[dict[str, str]], bytes],
) -> None:
    spec, rows, data = generated
    chunk = parse(spec, data)
    outcomes = [
        (line, spec.value_cell(record).source, told(spec, record, row))
        for line, row in enumerate(rows, start=2)
        for record in spec.records
    ]
    names = [spec.table.timestamp, *spec.records[0].constants, *(cell.target for cell in spec.records[0].cells)]
    names += [spec.trade_date] if spec.trade_date else []
    kept = [
        {**{name: told_record[name] for name in names}, LINE: line, COLUMN: source}
        for line, source, told_record in outcomes
        if isinstance(told_record, dict)
    ]
    assert chunk.records.select([*names, LINE, COLUMN]).to_pylist() == kept
    assert [(reject.line, reject.column, reject.reason) for reject in chunk.rejects] == [
        (line, fault.column, fault.reason) for line, _, fault in outcomes if isinstance(fault, Fault)
    ]
    assert chunk.absent == sum(outcome is None for _, _, outcome in outcomes)
    assert chunk.candidates == len(rows) * len(spec.records)


@SPECS
@given(st.binary(max_size=200))
def test_any_bytes_below_a_header_are_accounted_for(spec: CsvSpec, body: bytes) -> None:
    chunk = parse(spec, written(spec) + b"\n" + body)
    rows = {line for line, text in enumerate(body_lines(body), start=2) if text.strip()}
    assert chunk.candidates == len(rows) * len(spec.records)
    assert {reject.line for reject in chunk.rejects} <= rows


def body_lines(body: bytes) -> Iterator[str]:
    for line in body.split(b"\n"):
        try:
            yield line.decode()
        except UnicodeDecodeError:
            yield line.decode("latin-1")


@SPECS
@given(st.binary(max_size=200))
def test_any_bytes_at_all_are_parsed_or_rejected(spec: CsvSpec, data: bytes) -> None:
    with pytest.raises(FileRejected):
        parse_csv(spec, io.BytesIO(data))
