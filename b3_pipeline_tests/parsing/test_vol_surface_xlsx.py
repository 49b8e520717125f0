from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl import Workbook

from b3_pipeline.parsing import vol_surface_xlsx
from b3_pipeline.parsing.capture import DELTAS
from b3_pipeline.parsing.kinds import VOL_SURFACE
from b3_pipeline.parsing.records import COLUMN, LINE, TEXT, Chunk, FileRejected, Reason, record_schema
from b3_pipeline.parsing.vol_surface_xlsx import parse_surface, read_surface
from b3_pipeline.sample_payloads import vol_surface
from b3_pipeline.sessions import to_local
from b3_pipeline.tables import TABLES

TABLE = TABLES["b3_vol_surface"]
DAY = datetime(2025, 10, 13)
HEAD = [DAY, *(int(delta.removeprefix("delta_")) for delta in DELTAS)]
SMILE = [21.4, 18.29, 17.43, 14.82, 13.73, 12.76, 12.29, 11.97, 12.17, 12.15, 12.11]
NOVEMBER = [datetime(2025, 11, 3), *SMILE]
DECEMBER = [datetime(2025, 12, 1), *(value + 0.2 for value in SMILE)]
ZEROS = [0] * 12


def workbook(*rows: Sequence[Any], formats: dict[str, str] | None = None) -> bytes:
    book = Workbook()
    (sheet,) = book.worksheets
    for row in rows:
        sheet.append(list(row))
    for cell, form in (formats or {}).items():
        sheet[cell].number_format = form
    target = io.BytesIO()
    book.save(target)
    return target.getvalue()


def zipped(**files: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target.getvalue()


def changed(data: bytes, part: str, old: bytes, new: bytes) -> bytes:
    """A workbook in one of whose parts something stands in the place of something else."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert old in files[part]
    return zipped(**{**files, part: files[part].replace(old, new)})


def parsed(data: bytes) -> Chunk:
    (chunk,) = parse_surface(read_surface(io.BytesIO(data)), TABLE)
    assert chunk.records.schema == record_schema(TABLE)
    return chunk


def values(chunk: Chunk) -> dict[tuple[str, str], float]:
    return {(row["contract_month"], row["delta_bucket"]): row["volatility"] for row in chunk.records.to_pylist()}


def test_a_cell_becomes_a_record_of_the_evening_of_the_reference_date() -> None:
    chunk = parsed(workbook(HEAD, NOVEMBER))
    row = chunk.records.to_pylist()[3]
    assert to_local(row["ts"]) == datetime(2025, 10, 13, 19)
    assert (row["contract_month"], row["delta_bucket"], row["volatility"]) == ("nov-25", "delta_25", 14.82)
    assert (row["updated_at"], row[LINE], row[COLUMN]) == (date(2025, 10, 13), None, "E2")
    assert row[TEXT] == "2025-11-03;21.4;18.29;17.43;14.82;13.73;12.76;12.29;11.97;12.17;12.15;12.11"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda xlsx: xlsx,
        lambda xlsx: zipped(**{"Superficie_Vol_VTC_13102025.xlsx": xlsx}),
        lambda xlsx: zipped(**{"pasta/LEIAME.txt": b"x", "pasta/Superficie_Vol_VTC_13102025.XLSX": xlsx}),
        lambda xlsx: zipped(**{"a.zip": zipped(**{"Superficie_Vol_VTC_13102025.xlsx": xlsx})}),
    ],
)
def test_a_workbook_is_read_bare_or_out_of_its_zip(wrap: Any) -> None:
    chunk = parsed(wrap(workbook(HEAD, NOVEMBER, DECEMBER)))
    assert (chunk.records.num_rows, chunk.rejects, chunk.absent) == (22, [], 0)
    assert {month for month, _ in values(chunk)} == {"nov-25", "dez-25"}


def test_rows_of_zeros_at_the_end_are_absent_and_nowhere_else() -> None:
    chunk = parsed(workbook(HEAD, NOVEMBER, ZEROS, DECEMBER, ZEROS, [None] * 12, [None, *[0] * 11]))
    assert (chunk.records.num_rows, len(chunk.rejects), chunk.absent) == (22, 11, 22)
    assert {(r.column, r.reason) for r in chunk.rejects} == {("A3", Reason.BAD_CONTRACT)}


def test_a_zero_in_a_row_is_out_of_bounds() -> None:
    chunk = parsed(workbook(HEAD, [NOVEMBER[0], 0, *SMILE[1:]]))
    assert [(r.column, r.reason, r.value) for r in chunk.rejects] == [("B2", Reason.OUT_OF_BOUNDS, "0")]
    assert (chunk.records.num_rows, chunk.candidates) == (10, 11)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("n.d.", Reason.BAD_NUMBER),
        ("#N/A", Reason.BAD_NUMBER),
        (True, Reason.BAD_NUMBER),
        (datetime(2025, 11, 3), Reason.BAD_NUMBER),
        (-1, Reason.OUT_OF_BOUNDS),
        (500, Reason.OUT_OF_BOUNDS),
    ],
)
def test_a_wrong_cell_is_rejected_alone_and_by_its_name(cell: object, reason: Reason) -> None:
    chunk = parsed(workbook(HEAD, NOVEMBER, [*DECEMBER[:6], cell, *DECEMBER[7:]]))
    (reject,) = chunk.rejects
    assert (reject.line, reject.column, reject.reason) == (None, "G3", reason)
    assert chunk.records.num_rows == 21


@pytest.mark.parametrize(("cell", "number"), [("12,76", 12.76), ("12.5", 12.5), (13, 13.0)])
def test_a_number_is_read_as_any_source_writes_it(cell: object, number: float) -> None:
    assert values(parsed(workbook(HEAD, [NOVEMBER[0], cell, *SMILE[1:]])))["nov-25", "delta_1"] == number


def test_an_empty_cell_is_absent() -> None:
    chunk = parsed(workbook(HEAD, [NOVEMBER[0], None, "-", *SMILE[2:]]))
    assert (chunk.records.num_rows, chunk.rejects, chunk.absent) == (9, [], 2)


def test_a_cell_in_percent_is_read_as_it_is_shown() -> None:
    data = workbook(HEAD, [NOVEMBER[0], 0.1276, *SMILE[1:]], formats={"B2": "0.00%"})
    assert values(parsed(data))["nov-25", "delta_1"] == 12.76


@pytest.mark.parametrize(
    "maturity",
    [datetime(2025, 11, 3), date(2025, 11, 28), 45_964, "nov-25", "NOV/25", "X25", "03/11/2025", "2025-11-03"],
)
def test_a_maturity_is_read_as_a_date_or_a_month(maturity: object) -> None:
    assert {month for month, _ in values(parsed(workbook(HEAD, [maturity, *SMILE])))} == {"nov-25"}


@pytest.mark.parametrize(
    ("maturity", "reason"),
    [
        (None, Reason.MISSING_CONTRACT),
        ("-", Reason.MISSING_CONTRACT),
        ("30/02/2025", Reason.BAD_CONTRACT),
        ("next", Reason.BAD_CONTRACT),
        (12, Reason.BAD_CONTRACT),
        (1e300, Reason.BAD_CONTRACT),
        (datetime(2125, 1, 1), Reason.BAD_CONTRACT),
    ],
)
def test_a_row_without_a_maturity_is_rejected_with_all_its_cells(maturity: object, reason: Reason) -> None:
    chunk = parsed(workbook(HEAD, NOVEMBER, [maturity, *SMILE]))
    assert {(r.column, r.reason) for r in chunk.rejects} == {("A3", reason)}
    assert (chunk.records.num_rows, len(chunk.rejects)) == (11, 11)


@pytest.mark.parametrize("day", [DAY, DAY.date(), 45_943, "13/10/2025", "13-10-2025", "2025-10-13"])
def test_the_reference_date_is_read_as_a_date_or_as_text(day: object) -> None:
    assert read_surface(io.BytesIO(workbook([day, *HEAD[1:]], NOVEMBER))).day == date(2025, 10, 13)


def test_deltas_are_found_by_their_heads_and_others_are_reported() -> None:
    data = workbook([*reversed(HEAD), 33], [*reversed(NOVEMBER), 99.9])
    with pytest.raises(FileRejected, match="A1 is no reference date"):
        read_surface(io.BytesIO(data))
    head, row = [DAY, *HEAD[:0:-1], 33, "nota"], [NOVEMBER[0], *NOVEMBER[:0:-1], 99.9, "x"]
    surface = read_surface(io.BytesIO(workbook(head, row)))
    assert surface.ignored == ("M1: 33", "N1: nota")
    (chunk,) = parse_surface(surface, TABLE)
    assert values(chunk) == values(parsed(workbook(HEAD, NOVEMBER)))
    assert VOL_SURFACE.parse(io.BytesIO(workbook(head, row)), TABLE).ignored == surface.ignored


@pytest.mark.parametrize("head", [["1", "5.0", "10%", *HEAD[4:]], [float(d) for d in HEAD[1:]]])
def test_a_delta_is_read_as_number_or_text(head: list[Any]) -> None:
    assert parsed(workbook([DAY, *head], NOVEMBER)).records.num_rows == 11


def sheet_of_size(old: bytes, new: bytes) -> bytes:
    return changed(workbook(HEAD, NOVEMBER), "xl/worksheets/sheet1.xml", old, new)


def test_what_a_sheet_claims_to_be_its_size_hides_nothing() -> None:
    assert parsed(sheet_of_size(b'ref="A1:L2"', b'ref="A1:C1"')).candidates == 11


ENTITIES = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"<html></html>", "cut off or damaged"),
        (b"PK\x03\x04 and no more", "cut off or damaged"),
        (workbook(HEAD, NOVEMBER)[:-30], "cut off or damaged"),
        (zipped(), "the zip is empty"),
        (zipped(**{"a.csv": b"1"}), r"holds no XLSX, but 'a\.csv'"),
        (zipped(**{"a.xlsx": b"no workbook"}), "cut off or damaged"),
        (zipped(**{"[Content_Types].xml": b"<Types/>"}), "no workbook that can be read"),
        (workbook(), "A1 is no reference date, but ''"),
        (workbook(["Superfície", *HEAD[1:]], NOVEMBER), "A1 is no reference date, but 'Superfície'"),
        (workbook([17, *HEAD[1:]], NOVEMBER), "A1 is no reference date, but '17'"),
        (workbook(HEAD[:-2], NOVEMBER), "row 1 has no delta_95, delta_99"),
        (workbook([*HEAD, 50], NOVEMBER), "M1 is a second column of delta_50"),
        (workbook(HEAD, *[NOVEMBER] * 1_000), "more than 1000 rows"),
        (workbook(HEAD, [None] * 100 + [1]), "or 100 columns"),
        (sheet_of_size(b"<row ", ENTITIES + b"<row "), "no workbook that can be read"),
        (changed(workbook(HEAD), "xl/workbook.xml", b"<workbook ", ENTITIES + b"<workbook "), "no workbook"),
        (sheet_of_size(b'r="2"', b'r="many"'), "no workbook"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",  # openpyxl writes the time, also into the length
)
def test_what_is_no_surface_is_rejected_whole(data: bytes, said: str) -> None:
    with pytest.raises(FileRejected, match=said):
        read_surface(io.BytesIO(data))


def test_a_bomb_is_not_unpacked() -> None:
    bomb = changed(
        workbook(HEAD, NOVEMBER), "xl/styles.xml", b"<styleSheet", b"<!--" + b" " * (8 << 20) + b"--><styleSheet"
    )
    assert len(bomb) < 100_000
    for data in (bomb, zipped(**{"a.xlsx": bomb})):
        with pytest.raises(FileRejected, match="holds more than 4 MiB"):
            read_surface(io.BytesIO(data))


def test_a_gap_of_a_million_rows_is_no_surface() -> None:
    with pytest.raises(FileRejected, match="more than 1000 rows"):
        read_surface(io.BytesIO(sheet_of_size(b'r="2"', b'r="1048576"')))


CELLS: Any = st.sampled_from(
    [None, 0, True, "", "-", "n.d.", "12,76", 12.76, 1e300, -1, datetime(2025, 11, 3), "nov-25", "X25"]
)


@settings(max_examples=30)  # openpyxl takes its time to write one
@given(st.lists(st.lists(CELLS, min_size=12, max_size=12), max_size=6))
def test_every_cell_of_any_row_is_accounted_for(rows: list[list[Any]]) -> None:
    chunk = parsed(workbook(HEAD, *rows))
    assert chunk.candidates == 11 * sum(any(cell is not None and cell != "" for cell in row) for row in rows)


SAMPLE = vol_surface(date(2025, 10, 13))


@given(
    st.sampled_from([SAMPLE, workbook(HEAD, NOVEMBER)]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    st.integers(0, 200),
)
def test_a_damaged_file_is_read_or_rejected(data: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(data)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    try:
        chunk = parsed(bytes(damaged[: len(damaged) - cut]))
    except FileRejected:
        return
    assert chunk.candidates % 11 == 0


PARTS = ("xl/worksheets/sheet1.xml", "xl/workbook.xml", "[Content_Types].xml", "xl/styles.xml")


@given(
    st.sampled_from(PARTS),
    st.integers(0, 3_000),
    st.sampled_from([b"", b"<", b'"', b"0", b"9" * 400, b"\xff", b"&a;", b"A"]),
)
def test_a_workbook_with_a_garbled_part_is_read_or_rejected(part: str, at: int, garbage: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(workbook(HEAD, NOVEMBER))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    content = files[part]
    files[part] = content[: at % len(content)] + garbage + content[at % len(content) + 1 :]
    try:
        chunk = parsed(zipped(**files))
    except FileRejected:
        return
    assert chunk.candidates % 11 == 0


def test_the_number_of_a_day_is_the_workbooks_own() -> None:
    assert vol_surface_xlsx.XlsxCell("A1", 45_943.0).day == date(2025, 10, 13)
    assert vol_surface_xlsx.XlsxCell("A1", 45_943.5).day is None
