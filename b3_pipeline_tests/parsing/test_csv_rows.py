"""Lines, rows and fields of a CSV: the quick way and the careful way see the same."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from b3_pipeline.parsing import csv_rows
from b3_pipeline.parsing.csv_rows import LONGEST_LINE, Block, EmptyFile, Rows, open_rows, read_lines
from b3_pipeline.parsing.records import FileRejected


def blocks(rows: Rows, names: Collection[str] = ("a",)) -> list[Block]:
    return [rows.block(lines, names) for lines in rows.rest]


def read(data: bytes, block_bytes: int = 1 << 20) -> tuple[list[tuple[Any, ...]], list[tuple[int, str]]]:
    """All rows as (line, field, …) and all wrong lines as (line, text)."""
    rows = open_rows(io.BytesIO(data), block_bytes)
    good: list[tuple[Any, ...]] = []
    wrong: list[tuple[int, str]] = []
    for block in blocks(rows, rows.header):
        columns = [block.columns[name].to_pylist() for name in rows.header]
        good += zip(block.lines.tolist(), *columns, strict=True)
        wrong += [(line, block.text(line)) for line in block.wrong.tolist()]
    return good, wrong


def read_carefully(data: bytes, block_bytes: int = 1 << 20) -> tuple[list[tuple[Any, ...]], list[tuple[int, str]]]:
    with patch.object(Rows, "_all_at_once", lambda *_: None):
        return read(data, block_bytes)


def test_the_separator_is_the_headers() -> None:
    assert read(b"a;b\n1,5;2\n")[0] == [(2, "1,5", "2")]
    assert read(b'a,b\n"1,5",2;3\n')[0] == [(2, "1,5", "2;3")]


def test_names_and_fields_are_trimmed() -> None:
    rows = open_rows(io.BytesIO(b" a , b\n"))
    assert rows.header == ("a", "b")
    assert read(b"a,b\n 1 ,\t2 \n")[0] == [(2, "1", "2")]


def test_fields_that_are_the_same_when_trimmed_are_one_text_of_their_column() -> None:
    [block] = blocks(open_rows(io.BytesIO(b"a,b\n 1,2\n1,2\n1 ,2\n")))
    assert block.columns["a"].to_pylist() == ["1", "1", "1"]
    assert block.columns["a"].dictionary.to_pylist() == ["1"]


def test_a_byte_order_mark_is_no_part_of_the_first_name() -> None:
    assert open_rows(io.BytesIO(b"\xef\xbb\xbfa,b\n")).header == ("a", "b")


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_blank_line_is_no_row_but_counts_as_a_line(newline: bytes) -> None:
    data = newline.join([b"a,b", b"1,2", b"", b"  ", b"3,4"])
    assert read(data) == ([(2, "1", "2"), (5, "3", "4")], [])


def test_blank_lines_before_the_header_count_as_lines() -> None:
    assert read(b"\n \na,b\n1,2\n")[0] == [(4, "1", "2")]


def test_a_row_with_too_few_or_too_many_fields_is_wrong_and_the_others_are_read() -> None:
    assert read(b"a,b\n1\n2,3\n4,5,6\n7,8") == ([(3, "2", "3"), (5, "7", "8")], [(2, "1"), (4, "4,5,6")])


def test_a_cut_last_line_is_wrong() -> None:
    assert read(b"a,b\n1,2\n3") == ([(2, "1", "2")], [(3, "3")])


def test_a_stray_quote_spoils_its_own_line_only() -> None:
    assert read(b'a,b\n"1,2\n3,4\n"5","6"\n') == ([(3, "3", "4"), (4, "5", "6")], [(2, '"1,2')])


def test_a_doubled_quote_stands_for_one() -> None:
    assert read(b'a,b\n"1""2",""\n')[0] == [(2, '1"2', "")]


def test_each_line_is_utf_8_if_it_can_be_and_else_latin_1() -> None:
    data = "a,b\nmarço,1\n".encode() + "março,2\n".encode("latin-1")
    assert read(data)[0] == [(2, "março", "1"), (3, "março", "2")]


@pytest.mark.parametrize("data", [b"", b"\n\n", b" \r\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_a_payload_without_a_header_is_empty(data: bytes) -> None:
    with pytest.raises(EmptyFile):
        open_rows(io.BytesIO(data))


@pytest.mark.parametrize(
    ("data", "why"), [(b"a,b,a\n1,2,3\n", "twice: a"), (b'"a,b\n', "quotes"), (b"a" * (LONGEST_LINE + 1), "long")]
)
def test_a_line_that_cannot_be_a_header_rejects_the_file(data: bytes, why: str) -> None:
    with pytest.raises(FileRejected, match=why):
        open_rows(io.BytesIO(data))


def test_columns_without_a_name_are_no_duplicates() -> None:
    rows = open_rows(io.BytesIO(b"a,,\n1,2,3\n"))
    (block,) = blocks(rows)
    assert block.columns["a"].to_pylist() == ["1"]


def test_a_header_alone_has_no_rows() -> None:
    assert read(b"a,b") == ([], [])


@pytest.mark.parametrize("block_bytes", [1000, 1 << 20])
def test_a_line_that_is_too_long_is_wrong_and_shown_by_its_beginning(block_bytes: int) -> None:
    data = b"a,b\n1,2\n" + b"x" * (3 * LONGEST_LINE) + b",1\n3,4\n"
    good, wrong = read(data, block_bytes)
    assert good == [(2, "1", "2"), (4, "3", "4")]
    assert wrong == [(3, "x" * 1000)]


class Endless(io.RawIOBase):
    """A header, then that many bytes without any newline."""

    def __init__(self, size: int) -> None:
        self.parts = self._parts(size)
        self.largest = 0

    def _parts(self, size: int) -> Iterator[bytes]:
        yield b"a,b\n"
        for _ in range(size >> 16):
            yield b"x" * (1 << 16)

    def read(self, size: int = -1) -> bytes:
        return next(self.parts, b"")


def test_a_line_of_any_length_is_held_by_its_beginning_only() -> None:
    rows = open_rows(Endless(64 << 20))  # type: ignore[arg-type]
    (block,) = blocks(rows)
    assert len(block.source.data) == LONGEST_LINE + 1
    assert block.wrong.tolist() == [2]


def test_many_short_lines_come_in_blocks_of_bounded_length() -> None:
    rows = open_rows(io.BytesIO(b"a,b\n" + b"1,2\n" * (2 * csv_rows.BLOCK_LINES)))
    many = blocks(rows)
    assert max(len(block.lines) for block in many) <= csv_rows.BLOCK_LINES
    assert np.concatenate([block.lines for block in many]).tolist() == list(range(2, 2 * csv_rows.BLOCK_LINES + 2))


FIELD = st.one_of(
    st.text(alphabet='ab1;," \r\n\x00\x1c\x85é€', max_size=6),
    st.sampled_from(["", '""', '"a"', '"1,5"', '"a""b"', 'a"b', '"a', ' "a"', '"a"b', "\ufeff", "nan", "null"]),
)
TABLES = st.tuples(
    st.sampled_from([",", ";"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.lists(FIELD, min_size=1, max_size=4), max_size=6),
    st.booleans(),
).map(lambda parts: parts[1].join([parts[0].join(row) for row in parts[2]]) + (parts[1] if parts[3] else ""))


@given(
    st.sampled_from(["a,b", "a;b", "a", "a;b;c"]),
    st.one_of(
        TABLES.map(str.encode), TABLES.map(lambda text: text.encode("latin-1", "replace")), st.binary(max_size=60)
    ),
    st.sampled_from([1, 7, 1 << 20]),
)
@example("a,b", b'"a""",1\n""""""\n"",""\n', 1 << 20)
@example("a,b", b'1,"2\n3",4\n', 1 << 20)
@example("a,b", b"1,2\r3,4\n", 1 << 20)
@example("a,b", b"\xef\xbb\xbf1,2\n", 1 << 20)
@example("a,b", b"1,2\r\n\r\n\n3,4\r\n", 1 << 20)
@example("a,b", b"1,\x00\n", 1 << 20)
def test_the_quick_way_reads_what_the_careful_way_reads(header: str, body: bytes, block_bytes: int) -> None:
    data = f"{header}\n".encode() + body
    careful = read_carefully(data)
    assert read(data, block_bytes) == careful
    assert read(data) == careful
    assert read_carefully(data, block_bytes) == careful


@given(st.lists(st.lists(st.text(alphabet='ab1;," é', max_size=5), min_size=3, max_size=3), max_size=8))
def test_what_a_csv_writer_wrote_is_read_back(rows: list[list[str]]) -> None:
    quoted = [",".join('"' + field.replace('"', '""') + '"' for field in row) for row in rows]
    good, wrong = read("\n".join(["a,b,c", *quoted]).encode())
    assert wrong == []
    assert [list(fields) for _, *fields in good] == [[field.strip() for field in row] for row in rows]


def test_a_plain_block_is_read_the_quick_way() -> None:
    with patch.object(Rows, "_line_by_line", side_effect=AssertionError("the careful way was taken")):
        assert read(b'a,b\r\n"1,5",2\r\n"3 ""x""",\r\n')[0] == [(2, "1,5", "2"), (3, '3 "x"', "")]


@given(st.binary(max_size=80), st.integers(1, 90), st.sets(st.integers(1, 12)))
def test_a_line_is_found_again_by_its_number(data: bytes, block_bytes: int, wanted: set[int]) -> None:
    texts = read_lines(io.BytesIO(data), np.array(sorted(wanted), dtype=np.int64), block_bytes)
    whole = read_lines(io.BytesIO(data), np.array(sorted(wanted), dtype=np.int64))
    lines = data.split(b"\n")
    count = len(lines) - (lines[-1] == b"")
    assert texts == whole
    assert set(texts) == {line for line in wanted if line <= count}


def test_a_found_line_is_its_text_without_its_ending() -> None:
    data = "\ufeffa,b\r\nmarço,2\r\n3".encode()
    assert read_lines(io.BytesIO(data), np.array([1, 2, 3, 4])) == {1: "a,b", 2: "março,2", 3: "3"}
