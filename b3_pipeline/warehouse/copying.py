"""Rows into PostgreSQL and out of it by COPY: columns at a time, in pieces of bounded size."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute
from psycopg import sql

from b3_pipeline.errors import B3Error
from b3_pipeline.sessions import Window
from b3_pipeline.tables import Table
from b3_pipeline.warehouse.model import SCHEMA

pc: Any = pyarrow.compute  # its functions are made at run time, so that no type checker knows them


#: Bytes that are parsed at once, and so the longest row: of a table with documents in it, and of any other.
_LONG_BLOCK, _BLOCK = 16 << 20, 1 << 20


class WarehouseError(B3Error):
    """PostgreSQL does not do what the warehouse needs."""


def copied(rows: pa.Table) -> bytes:
    """Rows in the text format of COPY: not CSV, in which a line `\\.` within a message could end them all."""
    if not rows.num_rows:
        return b""
    columns = [_escaped(column.combine_chunks()) for column in rows.columns]
    lines = pc.binary_join_element_wise(pc.binary_join_element_wise(*columns, "\t"), "", "\n")
    data = lines.buffers()[2]  # the lines, one after the other
    return data[: pc.sum(pc.binary_length(lines)).as_py()].to_pybytes()


def _escaped(column: Any) -> Any:
    texts = column.cast(pa.string())
    if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
        for mark, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
            texts = pc.replace_substring(texts, mark, escaped)
    return pc.fill_null(texts, "\\N")


def rows_of(db: psycopg.Connection, table: Table, window: Window) -> Iterator[pa.Table]:
    """The rows of a table of the warehouse in a window, in the table's Arrow schema, in pieces of bounded size.

    Raises WarehouseError when a row cannot be read, as one that is longer than a piece may be.
    """
    from pyarrow import csv

    schema = table.arrow_schema()
    types = {f.name: pa.string() if pa.types.is_dictionary(f.type) else f.type for f in schema}
    convert = csv.ConvertOptions(
        column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    select = sql.SQL("copy (select {} from {} where ts >= {} and ts < {}) to stdout (format csv, header true)").format(
        sql.SQL(", ").join(_stored(c.name, types[c.name]) for c in table.columns),
        sql.Identifier(SCHEMA, table.name),
        *(sql.Literal(moment.replace(tzinfo=UTC)) for moment in window.bounds()),  # COPY takes no bound value
    )
    with db.cursor().copy(select) as copy:
        stream = io.BufferedReader(_Stream(copy), 1 << 20)
        options = csv.ParseOptions(newlines_in_values=True)
        documents = any(column.type == "VARCHAR" for column in table.columns)
        size = csv.ReadOptions(block_size=_LONG_BLOCK if documents else _BLOCK)
        try:
            with csv.open_csv(stream, size, options, convert) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch]).cast(schema)
        except pa.ArrowException as error:
            told = str(error).splitlines()[0]
            raise WarehouseError(f"What the warehouse has of {table.name} cannot be read: {told}") from None


def _stored(name: str, kind: pa.DataType) -> sql.Composed:
    form = "{c} at time zone 'UTC' as {c}" if pa.types.is_timestamp(kind) else "{c}"
    return sql.SQL(form).format(c=sql.Identifier(name))


class _Stream(io.RawIOBase):
    """What COPY gives, as a file to read from."""

    def __init__(self, copy: psycopg.Copy) -> None:
        self._copy, self._left = copy, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = memoryview(self._copy.read())
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
