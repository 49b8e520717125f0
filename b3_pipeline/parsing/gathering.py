"""Records of a small payload, gathered one by one: each candidate ends as a row, a reject or an absence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

import pyarrow as pa

from b3_pipeline.parsing.numbers import BadNumber
from b3_pipeline.parsing.records import COLUMN, LINE, TEXT, Chunk, Reason, Reject, record_schema
from b3_pipeline.parsing.times import BadDate, BadTime
from b3_pipeline.sessions import NonexistentTime
from b3_pipeline.tables import Range, Table

P = ParamSpec("P")
T = TypeVar("T")
Row = Mapping[str, object]

_REASONS: dict[type[Exception], Reason] = {
    BadNumber: Reason.BAD_NUMBER,
    BadDate: Reason.BAD_DATE,
    BadTime: Reason.BAD_TIME,
    NonexistentTime: Reason.NONEXISTENT_TIME,
}


class Fault(Exception):
    """One record may not be stored: the reason, the source's column (or a pointer) and the cell at fault."""

    def __init__(self, reason: Reason, column: str, value: str | None) -> None:
        super().__init__(f"{reason} in {column}: {value!r}")
        self.reason = reason
        self.column = column
        self.value = value


class Gathering:
    """The candidates of one payload for one table, in the payload's order.

    `line` is the number of the line that the next candidates stand on; None in a payload that has no lines.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.line: int | None = None
        self._rows: list[Row] = []
        self._rejects: list[Reject] = []
        self._absent = 0

    def candidate(
        self, column: str, text: str, read: Callable[P, Row | None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """One candidate: `read` gives its row (the table's parsed columns), None when it is absent, or a `Fault`.

        `column` is where its value stands in the source, `text` the record as the source writes it.
        """
        try:
            row = read(*args, **kwargs)
        except Fault as fault:
            self._rejects.append(Reject(self.line, fault.column, text, fault.reason, fault.value))
            return
        if row is None:
            self._absent += 1
        else:
            self._rows.append({**row, LINE: self.line, COLUMN: column, TEXT: text if self.line is None else None})

    def chunk(self) -> Chunk:
        """All of them, as one chunk."""
        records = pa.Table.from_pylist(self._rows, schema=record_schema(self.table))
        return Chunk(records, self._rejects, self._absent)


def parse_cell(parse: Callable[[str], T], column: str, text: str) -> T:
    """What a scalar parser makes of the text of a cell. Raises `Fault` for the parser's own errors."""
    try:
        return parse(text)
    except tuple(_REASONS) as error:
        raise Fault(_REASONS[type(error)], column, text) from None


def within(bounds: Range, number: float | None, column: str, text: str) -> float | None:
    """The number of a cell, as it is. Raises `Fault` (`out_of_bounds`) when it lies outside; absent lies inside."""
    if number is not None and not bounds.holds(number):
        raise Fault(Reason.OUT_OF_BOUNDS, column, text)
    return number
