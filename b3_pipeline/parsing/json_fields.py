"""Fields of JSON records: each cell read by its rule, or a fault with the pointer that leads to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime

from b3_pipeline.parsing.gathering import Fault, Gathering, parse_cell, within
from b3_pipeline.parsing.json_text import Array, Json, Number, Object, child, text_of
from b3_pipeline.parsing.numbers import is_absent, parse_number
from b3_pipeline.parsing.records import Reason, has_controls
from b3_pipeline.parsing.times import DateMark, parse_date, parse_time, parse_timestamp
from b3_pipeline.sessions import to_utc
from b3_pipeline.tables import Range

_LITERALS = ("NaN", "Infinity", "-Infinity")  # Python reads them, JSON has them not


@dataclass(frozen=True)
class Cell:
    """A member of an object, or an element of an array, that `parent` points to; its value is None when missing."""

    parent: str
    name: str | int
    value: Json

    @property
    def pointer(self) -> str:
        return child(self.parent, self.name)

    @property
    def absent(self) -> bool:
        """Whether it is missing, null, or a text that marks an absence."""
        return self.value is None or (isinstance(self.value, str) and is_absent(self.value))

    def fault(self, reason: Reason) -> Fault:
        """The fault of this cell, for that reason."""
        return Fault(reason, self.pointer, None if self.value is None else text_of(self.value))

    def as_text(self, otherwise: Reason) -> str:
        """Its trimmed text. Raises `Fault` for a value of another JSON type."""
        if not isinstance(self.value, str) or isinstance(self.value, Number):
            raise self.fault(otherwise)
        return self.value.strip()


@dataclass(frozen=True)
class Record:
    """An object, the name that it goes by in its parent, and the pointer to it."""

    name: str
    pointer: str
    body: Object

    @property
    def text(self) -> str:
        """The object verbatim."""
        return text_of(self.body)

    def cell(self, name: str) -> Cell:
        return Cell(self.pointer, name, self.body.get(name))


def entries(cell: Cell, kind: type[Object] | type[Array], gathering: Gathering) -> list[Cell]:
    """What a block holds. Missing or null it holds nothing; of another type than `kind` it is rejected, once."""
    if isinstance(cell.value, kind):
        items = cell.value.items() if isinstance(cell.value, Object) else enumerate(cell.value)
        return [Cell(cell.pointer, name, value) for name, value in items]
    if cell.value is not None:
        gathering.candidate(cell.pointer, text_of(cell.value), _no_record, cell)
    return []


def records(cells: Iterable[Cell], gathering: Gathering) -> Iterator[Record]:
    """The objects among cells. A null is one absent candidate, any other value one that is rejected."""
    for cell in cells:
        if isinstance(cell.value, Object):
            yield Record(str(cell.name), cell.pointer, cell.value)
        else:
            gathering.candidate(cell.pointer, text_of(cell.value), _no_record, cell)


def read_number(cell: Cell, bounds: Range) -> float | None:
    """A JSON number, or a number as text in either notation; None where absent.

    Raises `Fault`: `bad_number` (also for booleans and NaN), `out_of_bounds` (also for what no float64 can hold).
    """
    if cell.absent:
        return None
    if not isinstance(cell.value, str) or cell.value in _LITERALS:
        raise cell.fault(Reason.BAD_NUMBER)
    parse = float if isinstance(cell.value, Number) else parse_number
    number = parse_cell(parse, cell.pointer, cell.value)
    return within(bounds, number, cell.pointer, cell.value)


def read_text(cell: Cell) -> str | None:
    """A text, None where absent. Raises `Fault` (`bad_text`) for another type and for control characters."""
    return None if cell.absent else checked_text(cell.as_text(Reason.BAD_TEXT), cell.pointer)


def checked_text(text: str, column: str) -> str:
    """The text as it is. Raises `Fault` (`bad_text`) when it is blank or has control characters."""
    if not text.strip() or has_controls(text):
        raise Fault(Reason.BAD_TEXT, column, text)
    return text


def read_month(cell: Cell, is_month: Callable[[str], bool]) -> str:
    """A contract month in the form that `is_month` knows. Raises `Fault`: `missing_contract`, `bad_contract`."""
    if cell.absent:
        raise cell.fault(Reason.MISSING_CONTRACT)
    text = cell.as_text(Reason.BAD_CONTRACT)
    if not is_month(text):
        raise cell.fault(Reason.BAD_CONTRACT)
    return text


def read_date(cell: Cell, mark: DateMark) -> date | None:
    """A dd-mm-yyyy or dd/mm/yyyy text, by its mark; None where absent. Raises `Fault` (`bad_date`)."""
    if cell.absent:
        return None
    return parse_cell(lambda text: parse_date(text, mark), cell.pointer, cell.as_text(Reason.BAD_DATE))


def read_hour(cell: Cell) -> str | None:
    """An HH:MM:SS or HH:MM text as it is written, None where absent. Raises `Fault` (`bad_time`)."""
    if cell.absent:
        return None
    text = cell.as_text(Reason.BAD_TIME)
    parse_cell(parse_time, cell.pointer, text)
    return text


def read_moment(cell: Cell) -> datetime:
    """The naive UTC of an ISO 8601 text, which is local when it has no zone.

    Raises `Fault`: `bad_date` (also when absent, for nothing can be stored without it), `bad_time`,
    `nonexistent_time`.
    """
    return parse_cell(lambda text: to_utc(parse_timestamp(text)), cell.pointer, cell.as_text(Reason.BAD_DATE))


def _no_record(cell: Cell) -> None:
    if cell.value is not None:
        raise cell.fault(Reason.BAD_TEXT)
