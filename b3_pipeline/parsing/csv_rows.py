"""CSV bytes to columns of text with line numbers, in blocks: what is a line, a row and a field, and nothing more.

A line is a row, so a stray quote never swallows the rest of a file. Lines end in LF or CRLF; each is UTF-8 if it can
be, else Latin-1; a BOM does not count. Blank lines are no rows but count as lines. Any size is read in bounded memory.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from b3_pipeline.parsing.records import EmptyFile, FileRejected

pc: Any = pyarrow.compute  # its functions are made at run time, so that no type checker knows them

BLOCK_BYTES = 2 << 20
BLOCK_LINES = 1 << 15  # also bounds the rejects of a block in which every line is wrong
LONGEST_LINE = 128 << 10  # what Python's csv takes as one field; a longer line is no row
SHOWN_OF_LONG_LINE = 1000  # characters
_TEXTS = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Lines:
    """Whole lines of a payload: their bytes, and the number (from 1) of the first. Lines end before their LF."""

    data: bytes
    first: int

    @cached_property
    def ends(self) -> np.ndarray:
        """Where each line ends in `data`: the LF's position, or the end of the data (int64)."""
        ends = np.flatnonzero(np.frombuffer(self.data, dtype=np.uint8) == ord("\n"))
        return ends if self.data.endswith(b"\n") else np.append(ends, len(self.data))

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each line starts in `data` (int64)."""
        return np.concatenate(([0], self.ends[:-1] + 1))

    @property
    def last(self) -> int:
        return self.first + len(self.ends) - 1

    def text(self, line: int) -> str:
        """The line of that number, without its ending; of one that is too long only the beginning."""
        at = line - self.first
        raw = self.data[self.starts[at] : self.ends[at]].removesuffix(b"\r")
        if line == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        return _decoded(raw) if len(raw) <= LONGEST_LINE else _decoded(raw)[:SHOWN_OF_LONG_LINE]

    def is_too_long(self, line: int) -> bool:
        at = line - self.first
        return bool(self.ends[at] - self.starts[at] > LONGEST_LINE)

    def cut(self, first: int, last: int) -> Lines:
        """The lines from one number to another, both included."""
        return Lines(self.data[self.starts[first - self.first] : self.ends[last - self.first] + 1], first)


@dataclass(frozen=True)
class Block:
    """Some rows of a payload, in its order.

    `lines` has each row's line number (int64), `columns` its trimmed fields by name, both of one length (dictionaries
    of strings, for most fields of a column are the same as others); `wrong` the numbers of the lines that are no row (int64): too few or too many fields, a quote that is not closed, too long.
    """

    lines: np.ndarray
    columns: dict[str, pa.DictionaryArray]
    wrong: np.ndarray
    source: Lines

    def text(self, line: int) -> str:
        """The raw text of one of the block's lines."""
        return self.source.text(line)


@dataclass(frozen=True)
class _Found:
    """A block's row numbers, chosen columns (untrimmed) and wrong lines."""

    lines: np.ndarray
    columns: list[Any]
    wrong: np.ndarray


@dataclass(frozen=True)
class Rows:
    """A payload with its header read: the trimmed names, the separator, and what follows, to be read once."""

    header: tuple[str, ...]
    separator: str
    rest: Iterator[Lines]

    def block(self, lines: Lines, names: Collection[str]) -> Block:
        """What some lines below the header hold, with the named columns only."""
        places = [self.header.index(name) for name in names]
        found = self._all_at_once(lines, places) or self._line_by_line(lines, places)
        return Block(found.lines, dict(zip(names, map(_trimmed, found.columns), strict=True)), found.wrong, lines)

    def _all_at_once(self, lines: Lines, places: list[int]) -> _Found | None:
        """The columns through Arrow, or None where Arrow might read a line otherwise than `_line_by_line`."""
        # A single column cannot tell a blank line from an empty field by the number of fields.
        if len(self.header) == 1 or not _is_plain(lines, self.separator):
            return None
        names = [str(place) for place in range(len(self.header))]
        chosen = [names[place] for place in places]
        try:
            table = pyarrow.csv.read_csv(
                pa.BufferReader(lines.data),
                pyarrow.csv.ReadOptions(use_threads=False, block_size=len(lines.data) + 1, column_names=names),
                pyarrow.csv.ParseOptions(delimiter=self.separator),
                pyarrow.csv.ConvertOptions(
                    include_columns=chosen, column_types=dict.fromkeys(chosen, _TEXTS), strings_can_be_null=False
                ),
            )
        except pa.ArrowInvalid:
            return None
        columns = [table.column(name).combine_chunks() for name in chosen]
        return _Found(_numbers(range(lines.first, lines.last + 1)), columns, _numbers([]))

    def _line_by_line(self, lines: Lines, places: list[int]) -> _Found:
        """The columns by the rules themselves; they hold for any bytes."""
        numbers: list[int] = []
        rows: list[list[str]] = []
        wrong: list[int] = []
        for number in range(lines.first, lines.last + 1):
            text = lines.text(number)
            if not text or text.isspace():
                continue
            fields = None if lines.is_too_long(number) else _fields(text, self.separator)
            if fields is None or len(fields) != len(self.header):
                wrong.append(number)
            else:
                numbers.append(number)
                rows.append(fields)
        columns = [pa.array([row[place] for row in rows], pa.string()).dictionary_encode() for place in places]
        return _Found(_numbers(numbers), columns, _numbers(wrong))


def open_rows(stream: BinaryIO, block_bytes: int = BLOCK_BYTES) -> Rows:
    """Reads the header, which is the first line that is not blank; its separator (`,` or `;`) is the file's.

    Raises `EmptyFile` when there is no such line, `FileRejected` when it is no header: a name twice, a line that is
    too long, quotes that do not match.
    """
    parts = _line_parts(stream, block_bytes)
    for lines in parts:
        if not lines.data.removeprefix(codecs.BOM_UTF8).strip():
            continue
        for number in range(lines.first, lines.last + 1):
            if text := lines.text(number).strip():
                if lines.is_too_long(number):
                    raise FileRejected(f"line {number} should be the header, but is over {LONGEST_LINE} bytes long")
                rest = [lines.cut(number + 1, lines.last)] if number < lines.last else []
                return Rows(*_header(text, number), chain(rest, parts))
    raise EmptyFile("the file is empty: it has no header")


def read_lines(stream: BinaryIO, wanted: np.ndarray, block_bytes: int = BLOCK_BYTES) -> dict[int, str]:
    """The raw texts of the lines of these numbers (sorted, from 1) in one pass; numbers past the end are left out."""
    texts: dict[int, str] = {}
    for lines in _line_parts(stream, block_bytes):
        low, high = np.searchsorted(wanted, [lines.first, lines.last + 1])
        texts.update((line, lines.text(line)) for line in wanted[low:high].tolist())
        if high == len(wanted):
            break
    return texts


def _line_parts(stream: BinaryIO, block_bytes: int) -> Iterator[Lines]:
    """The payload cut at line ends, in parts of bounded size; of a line that is too long only the beginning is kept."""
    rest, first = b"", 1
    while read := stream.read(block_bytes):
        data = rest + read
        end = data.rfind(b"\n") + 1
        rest = data[end:][: LONGEST_LINE + 1]
        if end:
            whole = Lines(data[:end], first)
            yield from _of_bounded_length(whole)
            first = whole.last + 1
    if rest:
        yield Lines(rest, first)


def _of_bounded_length(lines: Lines) -> Iterator[Lines]:
    if lines.last - lines.first < BLOCK_LINES:
        yield lines
        return
    for first in range(lines.first, lines.last + 1, BLOCK_LINES):
        yield lines.cut(first, min(first + BLOCK_LINES - 1, lines.last))


def _header(text: str, line: int) -> tuple[tuple[str, ...], str]:
    separator = ";" if text.count(";") > text.count(",") else ","
    fields = _fields(text, separator)
    if fields is None:
        raise FileRejected(f"line {line} is no header: its quotes do not match")
    names = tuple(name.strip() for name in fields)
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise FileRejected(f"the header names a column twice: {', '.join(twice)}")
    return names, separator


def _is_plain(lines: Lines, separator: str) -> bool:
    """Whether lines, quotes and encoding are such that every reader of CSV agrees on them."""
    data, lengths = lines.data, lines.ends - lines.starts
    return (
        (b"\r" not in data or data.count(b"\r") == data.count(b"\r\n"))
        and not data.startswith(codecs.BOM_UTF8)
        and bool(lengths.min() > 1)  # Arrow takes an empty line for a row of empty fields; it may end in CR
        and bool(lengths.max() <= LONGEST_LINE)
        and (b'"' not in data or _quotes_are_plain(lines, separator))
        and _is_utf8(data)
    )


def _quotes_are_plain(lines: Lines, separator: str) -> bool:
    """Whether quotes come in pairs on every line, around whole fields, but for doubled ones inside."""
    data = np.frombuffer(lines.data, dtype=np.uint8)
    quotes = np.flatnonzero(data == ord('"'))
    if (np.searchsorted(quotes, lines.ends) % 2).any():
        return False
    around = np.concatenate(([ord("\n")], data, [ord("\n")]))  # around[i] is the byte before data[i]
    before = around[quotes[0::2]]
    after = around[quotes[1::2] + 2]
    return bool(
        np.isin(before, list(f'{separator}\n"'.encode())).all()
        and np.isin(after, list(f'{separator}\r\n"'.encode())).all()
    )


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fields(text: str, separator: str) -> list[str] | None:
    """The fields of one line; None when its quotes do not match."""
    try:
        return next(csv.reader([text], delimiter=separator, strict=True), [])
    except csv.Error:
        return None


def _trimmed(column: Any) -> Any:
    """A dictionary of texts, trimmed; its texts are still different ones."""
    trimmed = pc.utf8_trim_whitespace(column.dictionary)
    if trimmed.equals(column.dictionary):
        return column
    return trimmed.take(column.indices).dictionary_encode()


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _numbers(lines: Collection[int]) -> np.ndarray:
    return np.array(lines, dtype=np.int64)
