"""What a parser gives: chunks of records and rejects that account for every candidate in a payload."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import pyarrow as pa

from b3_pipeline.tables import Table

#: Where a record came from: columns that a parser adds to the table's own and the writer takes off again.
LINE, COLUMN, TEXT = "_line", "_column", "_text"
ORIGIN = pa.schema(
    [
        (LINE, pa.int64()),  # the payload's line, from 1; null where a payload has no lines (JSON, XML)
        (COLUMN, pa.dictionary(pa.int32(), pa.string())),  # the source's column, or a JSON pointer
        (TEXT, pa.string()),  # the record as text; null where `LINE` leads back to it
    ]
)


class Reason(StrEnum):
    """Why a record is rejected: a closed list (FORMATS §3), and what is said of records that come too late (ADR 0019)."""

    BAD_DATE = "bad_date"
    BAD_TIME = "bad_time"
    NONEXISTENT_TIME = "nonexistent_time"
    BAD_NUMBER = "bad_number"
    OUT_OF_BOUNDS = "out_of_bounds"
    MISSING_CONTRACT = "missing_contract"
    BAD_CONTRACT = "bad_contract"
    FIELD_COUNT = "field_count"
    CONFLICTING_DUPLICATE = "conflicting_duplicate"
    STATUS_FAILED = "status_failed"
    BAD_TEXT = "bad_text"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Reject:
    """A record that may not be stored, with all that is needed to find and to correct it.

    `text` is the raw record (the line of a CSV, the JSON or XML fragment), `value` the cell at fault. `record` tells
    apart the records of one line: the source's column of the record's own value.
    """

    line: int | None
    column: str | None
    text: str
    reason: Reason
    value: str | None = None
    record: str | None = None


@dataclass(frozen=True)
class Chunk:
    """Part of a payload, for one table: `candidates == records.num_rows + len(rejects) + absent`, always.

    `records` has the table's `parsed` columns and then those of `ORIGIN`, in the payload's order.
    """

    records: pa.Table
    rejects: list[Reject] = field(default_factory=list)
    absent: int = 0

    @property
    def candidates(self) -> int:
        return self.records.num_rows + len(self.rejects) + self.absent


Chunks = Iterator[Chunk]


class FileRejected(Exception):
    """The payload as a whole is not what its name says; it has no candidates. Raised before the first chunk only."""


class EmptyFile(FileRejected):
    """The payload has nothing in it."""


def has_controls(text: str) -> bool:
    """Whether a text has control characters, which no field of a record may have."""
    return any(character < " " or character == "\x7f" for character in text)


def record_schema(table: Table) -> pa.Schema:
    """The schema of `Chunk.records` for a table."""
    return pa.schema([*table.arrow_schema(table.parsed), *ORIGIN])


def empty_records(table: Table) -> pa.Table:
    """No records, in the schema that chunks for the table have."""
    return record_schema(table).empty_table()
