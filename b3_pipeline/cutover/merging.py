"""A wide legacy file with what it lacks: lines that are new go where their time is, every other byte stays (pure).

What the file says of a record stands. Only where a line has no valid record, its cells may be filled.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from functools import cached_property

import numpy as np
import pyarrow as pa

from b3_pipeline.choosing import by_precedence
from b3_pipeline.loading.compare import pick
from b3_pipeline.parsing.csv_rows import open_rows
from b3_pipeline.parsing.legacy_csv import DATE_COLUMN, TIME_COLUMN, parse_csv
from b3_pipeline.parsing.months import year_and_month
from b3_pipeline.parsing.records import COLUMN, LINE, empty_records
from b3_pipeline.parsing.times import parse_date, parse_time
from b3_pipeline.quality.parity import common_ids, compare
from b3_pipeline.sessions import to_local
from b3_pipeline.shadow.forms import Form, Gathered, Key, file_of


@dataclass
class LegacyFile:
    """A legacy file as it is: its lines (bytes with their ends), the place of each key's line, its valid records."""

    form: Form
    data: bytes
    header: tuple[str, ...]
    separator: str
    lines: list[bytes]
    places: dict[Key, int]
    records: pa.Table

    @cached_property
    def encoding(self) -> str:
        """What its new lines are written in: Latin-1 where any line of it is."""
        return "latin-1" if any(_text(line)[1] == "latin-1" for line in self.lines) else "utf-8"

    def takes(self, text: str) -> bool:
        """Whether a text can be written into it, and is the same when it is read again."""
        try:
            return _text(text.encode(self.encoding))[0] == text
        except UnicodeEncodeError:
            return False

    @property
    def line_end(self) -> str:
        """What ends a line in it."""
        return "\r\n" if self.lines and self.lines[0].endswith(b"\r\n") else "\n"

    def fields(self, place: int) -> list[str]:
        """The fields of a line, as they are."""
        return _fields(_text(self.lines[place])[0], self.separator) or []


def read(form: Form, data: bytes) -> LegacyFile:
    """Reads a file's bytes. Raises FileRejected for what is no such file."""
    chunks = [chunk.records for chunk in parse_csv(form.spec, io.BytesIO(data))]
    rows = open_rows(io.BytesIO(data))
    records = pa.concat_tables([empty_records(form.table), *chunks])
    lines = io.BytesIO(data).readlines()
    found = LegacyFile(form, data, rows.header, rows.separator, lines, {}, records)
    for place in range(len(lines)):
        if (key := key_of(found, place)) is not None:
            found.places.setdefault(key, place)
    return found


def _text(line: bytes) -> tuple[str, str]:
    """A line without its end, and the encoding that it is in; a BOM does not count."""
    raw = line.removesuffix(b"\n").removesuffix(b"\r").removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode(), "utf-8"
    except UnicodeDecodeError:
        return raw.decode("latin-1"), "latin-1"


def _fields(text: str, separator: str) -> list[str] | None:
    try:
        return next(csv.reader([text], delimiter=separator, strict=True), None)
    except csv.Error:
        return None


def key_of(file: LegacyFile, place: int) -> Key | None:
    """A line's key; None for what is no row, or has no time."""
    fields = _fields(_text(file.lines[place])[0], file.separator)
    if fields is None or len(fields) != len(file.header):
        return None
    row = {name: text.strip() for name, text in zip(file.header, fields, strict=True)}
    try:
        day = parse_date(row[DATE_COLUMN], "-")
        at = parse_time(row[TIME_COLUMN]) if file.form.has_times else time()
    except ValueError:
        return None
    return datetime.combine(day, at), row[file.form.tenors] if file.form.tenors else ""


@dataclass
class Lack:
    """What a file lacks of a table: the lines that its rows make (`gathered`), and in how many keys it says otherwise.

    `unwritable` counts the rows with a text that the file's encoding cannot hold.
    """

    form: Form
    file: LegacyFile | None
    gathered: Gathered
    stands: int = 0
    unwritable: int = 0
    _valid: dict[int, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, form: Form, file: LegacyFile | None) -> Lack:
        found = cls(form, file, Gathered(form))
        if file is not None:
            lines, sources = file.records.column(LINE).to_pylist(), file.records.column(COLUMN).to_pylist()
            for line, source in zip(lines, sources, strict=True):
                found._valid.setdefault(line - 1, set()).add(source)
        return found

    def add(self, rows: pa.Table) -> None:
        """Takes rows with their feed, of later moments than those before; all of a moment come together."""
        if self.file is not None and rows.num_rows:
            moments = rows.column(self.form.table.timestamp).to_numpy()
            times = self.file.records.column(self.form.table.timestamp).to_numpy()
            records = pick(self.file.records, (times >= moments.min()) & (times <= moments.max()))
            known = common_ids(self.form.table, records, rows)
            inside = np.isin(known[records.num_rows :], known[: records.num_rows])
            self.stands += self._otherwise(records, pick(rows, inside))
            rows = self._writable(self.file, pick(rows, ~inside))
            self._begin_with_lines_of(self.file, rows)
        self.gathered.add(rows)

    def _writable(self, file: LegacyFile, rows: pa.Table) -> pa.Table:
        """The rows that stand and whose texts the file can hold; the others are counted."""
        standing = by_precedence(self.form.table, rows)
        cells = standing.select([column.name for column in self.form.columns]).to_pylist()
        fits = np.array(
            [all(file.takes(cell) for cell in row.values() if isinstance(cell, str)) for row in cells], bool
        )
        self.unwritable += int((~fits).sum())
        return pick(standing, fits)

    def _otherwise(self, records: pa.Table, rows: pa.Table) -> int:
        """How many keys that the file has are taken by another value than the file's, out of these rows of the table."""
        held = self.form.held_table
        standing = by_precedence(self.form.table, rows).select([column.name for column in held.columns])
        return len(compare(held, records, standing).different)

    def _begin_with_lines_of(self, file: LegacyFile, rows: pa.Table) -> None:
        """The lines that the file has of these rows' moments: what valid records say there must be said by others, too."""
        moments = {self.form.moment(to_local(ts)) for ts in rows.column(self.form.table.timestamp).to_pylist()}
        tenors = set(rows.column("contract_month").to_pylist()) if self.form.tenors else {""}
        for key in ((moment, tenor) for moment in moments for tenor in tenors):
            if (place := file.places.get(key)) is not None and key not in self.gathered.lines:
                self.gathered.lines[key] = self._said(file, place)

    def _said(self, file: LegacyFile, place: int) -> dict[str, str]:
        """The cells of a line that stand: those of its valid records."""
        fields = dict(zip(file.header, (text.strip() for text in file.fields(place)), strict=True))
        spec, valid = self.form.spec, self._valid.get(place, set())
        records = [record for record in spec.records if spec.value_cell(record).source in valid]
        return {cell.source: fields[cell.source] for record in records for cell in record.cells}

    @property
    def added(self) -> dict[Key, dict[str, str]]:
        """The lines that are new."""
        places = self.file.places if self.file else {}
        return {key: line for key, line in self.gathered.lines.items() if key not in places}

    @property
    def filled(self) -> dict[int, dict[str, str]]:
        """By place, the cells that lines of the file get."""
        if self.file is None:
            return {}
        found = {}
        for key, line in self.gathered.lines.items():
            place = self.file.places.get(key)
            if place is not None:
                stands = {DATE_COLUMN, TIME_COLUMN, *self._said(self.file, place)}
                if more := {name: text for name, text in line.items() if name not in stands}:
                    found[place] = more
        return found

    @property
    def beyond(self) -> int:
        """How many rows the file cannot hold."""
        return self.gathered.beyond + self.unwritable

    @property
    def rows(self) -> pa.Table:
        """The rows that the file is to have now, and did not, in the columns of the form."""
        return self.gathered.held_rows()

    def merged(self) -> bytes:
        """The file with what it lacks; as it is when it lacks nothing."""
        if self.file is None:
            return file_of(self.form, self.gathered.lines) if self.gathered.lines else b""
        return self.file.data if not (self.added or self.filled) else b"".join(self._in_order(self.file))

    def _in_order(self, file: LegacyFile) -> Iterator[bytes]:
        """The file's lines in their order, each new one before the first line of a later time."""
        new = deque(sorted(self.added.items(), key=_order))
        times = {place: moment for (moment, _tenor), place in file.places.items()}
        filled, end = self.filled, file.line_end.encode()
        for place, line in enumerate(file.lines):
            while new and place in times and times[place] > new[0][0][0]:
                yield _written(file, new.popleft()[1]) + end
            text = _filled(file, place, filled[place]) if place in filled else line
            yield text if text.endswith(b"\n") else text + end
        for _key, cells in new:
            yield _written(file, cells) + end


def _order(line: tuple[Key, object]) -> tuple[datetime, tuple[int, int]]:
    (moment, tenor), _cells = line
    return moment, year_and_month(tenor) if tenor else (0, 0)


def _written(file: LegacyFile, cells: Mapping[str, str]) -> bytes:
    return _joined(file, [cells.get(name, "") for name in file.header]).encode(file.encoding)


def _filled(file: LegacyFile, place: int, cells: Mapping[str, str]) -> bytes:
    """A line of the file with some cells put in; what else it says stays as it is."""
    text, encoding = _text(file.lines[place])
    if text.isascii():  # it is in either
        encoding = file.encoding
    fields = _fields(text, file.separator) or []
    line = _joined(file, [cells.get(name, old) for name, old in zip(file.header, fields, strict=True)])
    mark = codecs.BOM_UTF8 if file.lines[place].startswith(codecs.BOM_UTF8) else b""
    return mark + line.encode(encoding) + file.lines[place][len(file.lines[place].rstrip(b"\r\n")) :]


def _joined(file: LegacyFile, fields: Sequence[str]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=file.separator, lineterminator="").writerow(fields)
    return out.getvalue()
