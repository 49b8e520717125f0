"""B3's volatility surface of dollar options: an XLSX in a zip, a row a maturity, a column a delta.

Source of the format: `FORMATS.md` §4. A1 is the reference date, the rest of row 1 the call deltas in percent, the rest
of column A the maturities; the cells are percent a year, base 252.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, BinaryIO

from b3_pipeline.parsing.archive_zip import verify_zip, zip_names, zipped_file
from b3_pipeline.parsing.capture import DELTAS
from b3_pipeline.parsing.gathering import Fault, Gathering, Row, parse_cell, within
from b3_pipeline.parsing.months import BadMonth, as_tenor, to_tenor
from b3_pipeline.parsing.numbers import is_absent, parse_number
from b3_pipeline.parsing.records import Chunks, EmptyFile, FileRejected, Reason
from b3_pipeline.parsing.times import BadDate, parse_date, parse_iso_date
from b3_pipeline.sessions import to_utc
from b3_pipeline.tables import Table

#: When the surface is out: the pool's prices are of 18:00, and nobody could know it earlier (FORMATS §4).
PUBLISHED = time(19)
#: What the workbook may unpack to; B3's has some 40 KB.
MAX_BYTES = 4 << 20
# A surface has a dozen columns and some thirty rows; an XLSX may claim a million.
_MAX_ROWS, _MAX_COLUMNS = 1_000, 100
_MANIFEST = "[Content_Types].xml"  # what makes a zip an XLSX
_EPOCH = date(1899, 12, 30)  # day 0 of a workbook's dates
_SERIALS = range(36_526, 73_051)  # 2000 to 2099


@dataclass(frozen=True)
class XlsxCell:
    """A cell of the sheet, and what it is called there: `B7`. A value in percent format is as it is shown: 12.5."""

    name: str
    value: object

    @property
    def text(self) -> str:
        """As it is shown, without surrounding white space; nothing for an empty one."""
        if isinstance(self.value, datetime):
            return self.value.date().isoformat()
        return "" if self.value is None else str(self.value).strip()

    @property
    def absent(self) -> bool:
        return self.value is None or (isinstance(self.value, str) and is_absent(self.value))

    @property
    def number(self) -> float | None:
        """Its number, where it is one (a truth value is none)."""
        is_number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        return float(self.value) if is_number else None  # pyright: ignore[reportArgumentType]

    @property
    def day(self) -> date | None:
        """Its date, as a date, as a workbook's number of a day, or as text; None where it is none."""
        if isinstance(self.value, datetime):
            return self.value.date()
        if isinstance(self.value, date):
            return self.value
        if self.number is not None:
            return _EPOCH + timedelta(days=int(self.number)) if self.number in _SERIALS else None
        for parse in (lambda text: parse_date(text, "/"), lambda text: parse_date(text, "-"), parse_iso_date):
            try:
                return parse(self.text)
            except BadDate:
                continue
        return None


@dataclass(frozen=True)
class Maturity:
    """A row of the surface: the cell with its maturity, and those of its volatilities by delta (`delta_25`)."""

    maturity: XlsxCell
    volatilities: dict[str, XlsxCell]
    text: str

    @property
    def filler(self) -> bool:
        """Whether it has no volatility at all, as the rows that fill up B3's sheet."""
        return all(cell.absent or cell.number == 0 for cell in self.volatilities.values())


@dataclass(frozen=True)
class Surface:
    """A surface: the session that it is of, its rows without the fillers at the end, and those fillers."""

    day: date
    maturities: list[Maturity]
    fillers: list[Maturity]
    ignored: tuple[str, ...]  # columns whose delta is none of the table's


def read_surface(stream: BinaryIO) -> Surface:
    """The surface in a seekable stream: an XLSX, or the last one in a zip.

    Raises `FileRejected` for what is no such workbook, whose A1 is no date, or that lacks a delta.
    """
    rows = _rows(_workbook(stream))
    head = next(rows, [])
    if not head or (day := head[0].day) is None:
        raise FileRejected(f"A1 is no reference date, but {head[0].text[:40] if head else ''!r}")
    columns, ignored = _columns(head[1:])
    found = [_maturity(row, columns) for row in rows if any(cell.value is not None for cell in row)]
    last = max((place + 1 for place, row in enumerate(found) if not row.filler), default=0)
    return Surface(day, found[:last], found[last:], ignored)


def parse_surface(surface: Surface, table: Table) -> Chunks:
    """The volatilities of a surface, a candidate each cell, as one chunk for `b3_vol_surface`."""
    gathering = Gathering(table)
    for row in surface.maturities:
        for delta, cell in row.volatilities.items():
            gathering.candidate(cell.name, row.text, _volatility, surface.day, row.maturity, delta, cell, table)
    for row in surface.fillers:
        for cell in row.volatilities.values():
            gathering.candidate(cell.name, row.text, _nothing)
    yield gathering.chunk()


def _volatility(day: date, maturity: XlsxCell, delta: str, cell: XlsxCell, table: Table) -> Row | None:
    if cell.absent:
        return None
    return {
        "ts": to_utc(datetime.combine(day, PUBLISHED)),
        "contract_month": _tenor(maturity),
        "delta_bucket": delta,
        "volatility": _number(cell, table),
        "updated_at": day,
    }


def _nothing() -> None:
    """A cell of a filler row: absent, whatever zero stands in it."""


def _number(cell: XlsxCell, table: Table) -> float | None:
    """Percent a year. Raises `Fault`: `bad_number` (also for a date or a truth value), `out_of_bounds`."""
    number = cell.number
    if number is None:
        if not isinstance(cell.value, str):
            raise Fault(Reason.BAD_NUMBER, cell.name, cell.text)
        number = parse_cell(parse_number, cell.name, cell.value)
    return within(table.column("volatility").bounds(), number, cell.name, cell.text)


def _tenor(maturity: XlsxCell) -> str:
    """`nov-25`, of a date or of a month in either form. Raises `Fault`: `missing_contract`, `bad_contract`."""
    if maturity.absent:
        raise Fault(Reason.MISSING_CONTRACT, maturity.name, None)
    day = maturity.day
    try:
        return to_tenor(day.year, day.month) if day else _named_month(maturity.text)
    except BadMonth:
        raise Fault(Reason.BAD_CONTRACT, maturity.name, maturity.text) from None


def _named_month(text: str) -> str:
    """The tenor of `Nov/25`, `nov-25`, `X25`. Raises `BadMonth`."""
    try:
        return as_tenor(text.lower().replace("/", "-"))
    except BadMonth:
        return as_tenor(text)


def _columns(head: list[XlsxCell]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Where each delta's column is (0: B), in the table's order, and the heads of those that are no delta of it."""
    found: dict[str, int] = {}
    ignored = []
    for place, cell in enumerate(head):
        name = f"delta_{cell.text.removesuffix('.0').removesuffix('%')}"
        if name in found:
            raise FileRejected(f"{cell.name} is a second column of {name}: which one counts is not said")
        if name in DELTAS:
            found[name] = place
        elif not cell.absent:
            ignored.append(f"{cell.name}: {cell.text[:40]}")
    if missing := [delta for delta in DELTAS if delta not in found]:
        raise FileRejected(f"row 1 has no {', '.join(missing)}")
    return {delta: found[delta] for delta in DELTAS}, tuple(ignored)


def _maturity(row: list[XlsxCell], columns: dict[str, int]) -> Maturity:
    text = ";".join(cell.text for cell in row).rstrip(";")
    return Maturity(row[0], {delta: row[place + 1] for delta, place in columns.items()}, text)


def _workbook(stream: BinaryIO) -> bytes:
    """The bytes of the XLSX, whole and of a bounded size when unpacked."""
    if not stream.read(1):
        raise EmptyFile("the file is empty")
    stream.seek(0)
    if _MANIFEST in zip_names(stream):
        stream.seek(0)
        data = stream.read()
    else:
        with zipped_file(stream, ".xlsx") as file:
            data = file.read()
    verify_zip(io.BytesIO(data), MAX_BYTES)
    return data


def _rows(data: bytes) -> Iterator[list[XlsxCell]]:
    """The rows of a workbook's first sheet, all of one width. Raises `FileRejected` for what openpyxl cannot read."""
    from openpyxl import load_workbook  # here, for its import takes a fifth of a second and most commands need none

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of styles and extensions that it leaves out
            book = load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
            sheet: Any = book.worksheets[0]
            sheet.reset_dimensions()  # what a sheet claims to be its size may hide cells
            cells = sheet.iter_rows(max_row=_MAX_ROWS + 1, max_col=_MAX_COLUMNS + 1)
            rows = [[_cell(cell, row, place) for place, cell in enumerate(line)] for row, line in enumerate(cells, 1)]
    except Exception as error:  # of a damaged or made-up workbook it raises whatever comes, documented nowhere
        raise FileRejected(f"no workbook that can be read: {type(error).__name__}") from None
    if len(rows) > _MAX_ROWS or any(row[-1].value is not None for row in rows if row):
        raise FileRejected(f"the sheet has more than {_MAX_ROWS} rows or {_MAX_COLUMNS} columns: no surface has")
    return iter(rows)


def _cell(cell: Any, row: int, place: int) -> XlsxCell:
    letters = chr(ord("A") + place % 26)
    name = f"{chr(ord('A') + place // 26 - 1) if place >= 26 else ''}{letters}{row}"
    value = cell.value
    if isinstance(value, int | float) and not isinstance(value, bool) and "%" in (cell.number_format or ""):
        value = round(value * 100, 10)  # 0.125 is shown as 12.5 %
    return XlsxCell(name, value)
