"""The wide form of the legacy CSV files: rows of a table as lines, and what of them the form can hold.

A row is held when our own parser reads it back from its cells as it is stored; that is tried with every row.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, time
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from b3_pipeline.choosing import LEGACY_FEEDS, by_precedence, front_contract, rank
from b3_pipeline.loading.compare import any_of, differing, pick
from b3_pipeline.parsing.legacy_csv import (
    ADJUSTMENTS,
    DATE_COLUMN,
    DXY,
    INDICATORS,
    SURFACE,
    TIME_COLUMN,
    CsvSpec,
    WideRecord,
    parse_csv,
    slashed_date,
)
from b3_pipeline.parsing.months import year_and_month
from b3_pipeline.parsing.records import LINE, FileRejected, empty_records, has_controls
from b3_pipeline.parsing.times import parse_date, parse_time
from b3_pipeline.sessions import to_local
from b3_pipeline.tables import Column, Table

#: A line's place in its file: local time (a day's midnight where the file has no times) and tenor, which may be "".
Key = tuple[datetime, str]
#: A file's lines, each its cells by column.
Lines = dict[Key, dict[str, str]]
_FIRST_LINE = 2


class Damaged(Exception):
    """A file that is not as we write it: torn, or somebody else's."""


@dataclass(frozen=True)
class Form:
    """One of the wide files: how it is parsed, its header in the legacy order, and the column of its tenors."""

    spec: CsvSpec
    header: tuple[str, ...]
    tenors: str | None = None

    @property
    def file(self) -> str:
        return self.spec.file

    @property
    def table(self) -> Table:
        return self.spec.table

    @property
    def has_times(self) -> bool:
        return TIME_COLUMN in self.header

    @property
    def columns(self) -> tuple[Column, ...]:
        """The table's columns that the form gives back."""
        cells = {cell.target for record in self.spec.records for cell in record.cells}
        names = {*self.table.keys, *cells, self.spec.trade_date} - {"feed"}
        return tuple(c for c in self.table.parsed if c.name in names)

    @property
    def held_table(self) -> Table:
        """The table as far as the form gives it back: what comparisons go by."""
        feed = self.table.column("feed")
        return replace(self.table, columns=(*self.columns, feed))

    def moment(self, local: datetime) -> datetime:
        """The line's time of a record of that local time."""
        return local if self.has_times else datetime.combine(local.date(), time())

    def record_of(self, row: Mapping[str, Any]) -> WideRecord | None:
        """Which of a line's records a row is; None when the form has no place for it."""
        return next((r for r in self.spec.records if all(row[c] == v for c, v in r.constants.items())), None)


FORMS: dict[str, Form] = {
    form.table.name: form
    for form in (
        Form(
            ADJUSTMENTS,
            (
                *(DATE_COLUMN, TIME_COLUMN),
                *(
                    f"{name}_{part}"
                    for name in ("ddi", "di1", "dol")
                    for part in ("vencimento", "preco_numerico", "preco_anterior_numerico")
                ),
                "status",
            ),
        ),
        Form(INDICATORS, INDICATORS.required),
        Form(
            SURFACE,
            (
                *(DATE_COLUMN, TIME_COLUMN, "mes"),
                *(SURFACE.value_cell(record).source for record in SURFACE.records),
                "data_atualizacao",
            ),
            tenors="mes",
        ),
        Form(
            DXY,
            (
                DATE_COLUMN,
                *(DXY.value_cell(record).source for record in DXY.records),
                "fonte",
                *(cell.source for record in DXY.records for cell in record.cells if cell.target == "status"),
            ),
        ),
    )
}


def plain(number: float) -> str:
    """A number in digits, without exponent, that parses to the very same double."""
    return format(Decimal(repr(float(number))), "f")


@dataclass
class Gathered:
    """Rows of a table as the lines of its file.

    `held` are the rows that the lines hold, in the columns of the form; `beyond` counts the others (of several feeds' rows
    with one key only the one that takes precedence counts at all).
    """

    form: Form
    lines: Lines = field(default_factory=dict)
    held: list[pa.Table] = field(default_factory=list)
    beyond: int = 0

    def add(self, rows: pa.Table) -> None:
        """Takes rows with their feed, of later moments than those before; all of a moment come together."""
        standing = by_precedence(self.form.table, rows)
        candidates = _of_one_contract(self.form, standing)
        cells = [_cells(self.form, row) if row else None for row in candidates]
        fits = _read_back(self.form, cells, standing)
        taken = np.zeros(standing.num_rows, bool)
        for place, placed in enumerate(cells):
            if placed is None or not fits[place]:
                continue
            key, own = placed
            taken[place] = _joins(self.lines.get(key, {}), own)
            if taken[place]:
                self.lines.setdefault(key, {}).update(own)
        self.beyond += int((~taken).sum())
        self.held.append(pick(standing.select([c.name for c in self.form.columns]), taken))

    def held_rows(self) -> pa.Table:
        """All rows that the lines hold."""
        schema = self.form.table.arrow_schema(self.form.columns)
        return pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in self.held)])


def _joins(line: Mapping[str, str], own: Mapping[str, str]) -> bool:
    """Whether cells may go into a line: what other records of it say in the columns that they share is the same."""
    return all(line.get(column, text) == text for column, text in own.items())


def _of_one_contract(form: Form, rows: pa.Table) -> list[dict[str, Any] | None]:
    """The rows that may have a place in a line; None for those that have none.

    A line holds one contract of an instrument: of a report's the front one, of a legacy row's the one that it had.
    """
    found = [row if form.record_of(row) else None for row in rows.to_pylist()]
    if form.table.name != ADJUSTMENTS.table.name:
        return found
    best: dict[tuple[datetime, str], tuple[tuple[Any, ...], int]] = {}
    for place, row in enumerate(found):
        if row is None:
            continue
        front = row["contract_month"] == front_contract(to_local(row["ts"]).date())
        if front or row["feed"] in LEGACY_FEEDS:
            order = (rank(row["feed"]), not front, _month(row["contract_month"]))
            group = (row["ts"], row["instrument"])
            best[group] = min(best.get(group, (order, place)), (order, place))
    chosen = {place for _order, place in best.values()}
    return [row if place in chosen else None for place, row in enumerate(found)]


def _month(text: str) -> tuple[int, int]:
    try:
        return year_and_month(text)
    except ValueError:
        return 0, 0


def _cells(form: Form, row: Mapping[str, Any]) -> tuple[Key, dict[str, str]] | None:
    """A row's line and its cells in it; None when there is a text that no line can hold."""
    record = form.record_of(row)
    local = to_local(row["ts"])
    if record is None:
        return None
    cells = {DATE_COLUMN: f"{local:%d-%m-%Y}"}
    if form.has_times:
        cells[TIME_COLUMN] = f"{local:%H:%M:%S}"
    for cell in record.cells:
        cells[cell.source] = _text(row[cell.target], slashed=cell.kind is slashed_date)
    if any(map(has_controls, cells.values())):
        return None
    return (form.moment(local), cells.get(form.tenors or "", "")), cells


def _text(value: Any, *, slashed: bool) -> str:
    if value is None:
        return ""
    if slashed:
        return f"{value:%d/%m/%Y}"
    return plain(value) if isinstance(value, float) else str(value)


def _read_back(form: Form, cells: list[tuple[Key, dict[str, str]] | None], rows: pa.Table) -> np.ndarray:
    """Which rows our parser gives back from their cells, each on a line of its own, as they are: bool."""
    fits = np.zeros(rows.num_rows, bool)
    places = np.array([place for place, own in enumerate(cells) if own is not None], np.int64)
    if not len(places):
        return fits
    records = parsed(form, text_of(form, [own[1] for own in cells if own is not None]))
    where = places[records.column(LINE).to_numpy() - _FIRST_LINE]
    wanted = rows.take(pa.array(where))
    unlike = differing(records, wanted, form.columns)
    fits[where[~any_of(unlike.values(), len(where))]] = True
    return fits


def parsed(form: Form, data: bytes) -> pa.Table:
    """The records that a file's bytes hold by our own parser. Raises `FileRejected`."""
    chunks = [chunk.records for chunk in parse_csv(form.spec, io.BytesIO(data))]
    return pa.concat_tables([empty_records(form.table), *chunks])


def text_of(form: Form, lines: Iterable[Mapping[str, str]]) -> bytes:
    """A file of these lines, in their order."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, form.header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue().encode()


def file_of(form: Form, lines: Lines) -> bytes:
    """A file of these lines, in time's order, and in each moment by tenor."""
    order = sorted(lines, key=lambda key: (key[0], _month(key[1])))
    return text_of(form, (lines[key] for key in order))


def lines_of(form: Form, data: bytes) -> Lines:
    """The lines of a file that we wrote. Raises `Damaged` when it is not as we write one."""
    try:
        text = data.decode()
        if not text.endswith("\n"):
            raise Damaged("its last line is cut off")
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        if tuple(rows.fieldnames or ()) != form.header:
            raise Damaged("its header is not ours")
        lines = {_key(form, row): row for row in rows}
        rejects = sum(len(chunk.rejects) for chunk in parse_csv(form.spec, io.BytesIO(data)))
        as_ours = not rejects and file_of(form, lines) == data
    except (
        csv.Error,
        FileRejected,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:  # what a date or a field may not be
        raise Damaged(f"it cannot be read: {error}") from None
    if not as_ours:
        raise Damaged("it has lines that we do not write")
    return lines


def _key(form: Form, row: Mapping[str, str]) -> Key:
    day = parse_date(row[DATE_COLUMN], "-")
    at = parse_time(row[TIME_COLUMN]) if form.has_times else time()
    return datetime.combine(day, at), row[form.tenors] if form.tenors else ""
