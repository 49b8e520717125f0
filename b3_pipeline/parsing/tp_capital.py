"""TP-Capital's exports: lists of signals, of Telegram bots and of Telegram channels, an object a record; or a line each.

Which member fills which column is the only thing that differs; how a member is read follows from its column's type.
Source of the format: `FORMATS.md` §2 (columns) and §6 (rules).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import BinaryIO

from b3_pipeline.parsing.gathering import Fault, Gathering, Row, parse_cell, within
from b3_pipeline.parsing.json_fields import Cell, Record, read_number, read_text, records
from b3_pipeline.parsing.json_text import Array, Document, Object, decode
from b3_pipeline.parsing.records import Chunks, FileRejected, Reason, has_controls
from b3_pipeline.parsing.times import BadDate, parse_iso_date, parse_time
from b3_pipeline.tables import Column, Range, Table

#: Columns whose member goes by another name than the column.
MEMBERS: Mapping[str, str] = {
    "ts": "timestamp",
    "signal_type": "signalType",
    "buy_min": "buyMin",
    "buy_max": "buyMax",
    "target_1": "target1",
    "target_2": "target2",
    "target_final": "targetFinal",
    "raw_message": "rawMessage",
}
_MOMENT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}:[0-9]{2}:[0-9]{2})Z")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
#: What a LONG can hold; the lowest int64 is QuestDB's null.
_LONG = Range(-(2.0**63), 2.0**63, low_open=True, high_open=True)
_LINES = str.maketrans("", "", "\n\r\t")


def parse_moment(text: str) -> datetime:
    """The naive UTC of a `YYYY-MM-DDTHH:MM:SSZ` text, exactly. Raises BadDate for another form or day, BadTime."""
    match = _MOMENT.fullmatch(text)
    if not match:
        raise BadDate(f"{text!r} is no YYYY-MM-DDTHH:MM:SSZ")
    return datetime.combine(parse_iso_date(match[1]), parse_time(match[2]))


def members(table: Table) -> Mapping[str, str]:
    """Each parsed column of a table, and the member of a record that fills it."""
    return {c.name: MEMBERS.get(c.name, c.name) for c in table.parsed}


def read_list(stream: BinaryIO) -> Document:
    """The document in a stream. Raises `FileRejected` when it is no JSON list."""
    document = decode(stream.read())
    if not isinstance(document.root, Array):
        raise FileRejected("the document is no JSON list of records")
    return document


def unused(document: Document, table: Table) -> tuple[str, ...]:
    """The members of any record that fill no column, in the order in which they appear."""
    assert isinstance(document.root, Array)
    used = set(members(table).values())
    found = (name for item in document.root if isinstance(item, Object) for name in item)
    return tuple(dict.fromkeys(name for name in found if name not in used))


def parse_list(document: Document, table: Table) -> Chunks:
    """The records of a list for one table, in one chunk."""
    assert isinstance(document.root, Array)
    gathering = Gathering(table)
    cells = (Cell("", place, item) for place, item in enumerate(document.root))
    names = members(table)
    for record in records(cells, gathering):
        gathering.candidate(record.pointer, record.text, _row, record, table, names)
    yield gathering.chunk()


def parse_lines(stream: BinaryIO, table: Table) -> Chunks:
    """The records of JSON lines for one table, in one chunk: each line is a record, but for a blank one.

    A record's pointers begin at its own line.
    """
    gathering, names = Gathering(table), members(table)
    for number, line in enumerate(stream, 1):
        if line.strip():
            gathering.line = number
            gathering.candidate("", line.decode("utf-8", "replace").rstrip("\r\n"), _of_line, line, table, names)
    yield gathering.chunk()


def _of_line(line: bytes, table: Table, names: Mapping[str, str]) -> Row:
    try:
        root = decode(line).root
    except FileRejected:
        raise Fault(Reason.BAD_TEXT, "", None) from None
    if not isinstance(root, Object):
        raise Fault(Reason.BAD_TEXT, "", None)
    return _row(Record("", "", root), table, names)


def _row(record: Record, table: Table, names: Mapping[str, str]) -> Row:
    cells = {column: record.cell(member) for column, member in names.items()}
    row = {c.name: _read(cells[c.name], c, key=c.name in table.keys) for c in table.parsed}
    for cell in _falling(row, cells, table):
        raise cell.fault(Reason.OUT_OF_BOUNDS)
    return row


def _falling(row: Row, cells: Mapping[str, Cell], table: Table) -> Iterator[Cell]:
    """The cells whose number is below one that it may not be below."""
    for rule in table.ascending:
        given = [(number, cells[name]) for name in rule.columns if isinstance(number := row[name], float)]
        if rule.hard:
            yield from (cell for (low, _), (high, cell) in itertools.pairwise(given) if high < low)


def _read(cell: Cell, column: Column, *, key: bool) -> object:
    """A cell by its column's type; None where absent, which a key may not be."""
    if column.type == "TIMESTAMP":
        return None if cell.absent and not key else parse_cell(parse_moment, cell.pointer, _verbatim(cell))
    if column.type == "DOUBLE":
        return read_number(cell, column.bounds())
    if column.type == "LONG":
        return _integer(cell, column)
    text = _message(cell) if column.type == "VARCHAR" else read_text(cell)
    if key and text is None:
        raise cell.fault(Reason.BAD_TEXT)
    return text


def _verbatim(cell: Cell) -> str:
    """The text as it is, for a form that allows no white space around it."""
    cell.as_text(Reason.BAD_DATE)
    return str(cell.value)


def _integer(cell: Cell, column: Column) -> int | None:
    """A whole number. Raises `Fault`: `bad_number`, `out_of_bounds` (also for what no LONG can hold)."""
    number = read_number(cell, column.bounds())
    if number is None:
        return None
    text = str(cell.value).strip()
    if not _INTEGER.fullmatch(text):
        raise cell.fault(Reason.BAD_NUMBER)
    within(_LONG, number, cell.pointer, text)
    return int(text)


def _message(cell: Cell) -> str | None:
    """A text of several lines, verbatim; None where it is missing, null or empty."""
    if cell.value is None or cell.value == "":
        return None
    cell.as_text(Reason.BAD_TEXT)
    text = str(cell.value)
    if has_controls(text.translate(_LINES)):
        raise Fault(Reason.BAD_TEXT, cell.pointer, text)
    return text
