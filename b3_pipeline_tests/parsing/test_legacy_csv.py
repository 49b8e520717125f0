"""The four wide files: every record is accounted for, and none lands in another's place."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline import sessions
from b3_pipeline.parsing.csv_rows import EmptyFile
from b3_pipeline.parsing.legacy_csv import ADJUSTMENTS, DXY, INDICATORS, LEGACY_CSV, SURFACE, CsvSpec, parse_csv
from b3_pipeline.parsing.months import CODE_LETTERS, MONTH_NAMES
from b3_pipeline.parsing.records import COLUMN, LINE, TEXT, Chunk, FileRejected, Reason, Reject, record_schema
from b3_pipeline.tables import Range

ROW = {
    ADJUSTMENTS: "07-01-2025,09:32:25,G25,102378.93,102370.93,G25,98532.10,98530.10,G25,5864.779,5860.779,migrado",
    INDICATORS: "07-01-2025,09:17:34,13.15,4.12,5.8320,29.23",
    SURFACE: "23-05-2025,12:08:12,jun-25," + ",".join(f"{n}.5" for n in range(20, 31)) + ",23/05/2025",
    DXY: "03-10-2025,-0.49,-0.47,-0.48,Yahoo Finance,sucesso,sucesso,sucesso",
}


def parse(spec: CsvSpec, *lines: str, header: str | None = None) -> Chunk:
    """One small file's only chunk (an empty one, when it has no rows)."""
    text = "\n".join([header or ",".join(spec.required), *lines])
    (chunk,) = parse_csv(spec, io.BytesIO(text.encode()))
    check(spec, chunk)
    return chunk


def check(spec: CsvSpec, chunk: Chunk) -> None:
    """What holds for every chunk: the table's schema, valid arrays, whole rows, values within the hard bounds."""
    assert chunk.records.schema.equals(record_schema(spec.table))
    chunk.records.validate(full=True)
    assert chunk.candidates % len(spec.records) == 0
    for column in spec.table.parsed:
        for record in chunk.records.to_pylist() if column.type == "DOUBLE" else []:
            bounds = column.bounds(record.get(column.bounds_by or ""))
            assert record[column.name] is None or bounds.holds(record[column.name])


def changed(spec: CsvSpec, **cells: str) -> str:
    """The good row with other cells."""
    row = dict(zip(spec.required, ROW[spec].split(","), strict=True)) | cells
    return ",".join(f'"{cell}"' for cell in row.values())


@pytest.fixture(autouse=True)
def headers_in_the_files_order(request: pytest.FixtureRequest) -> None:
    """`required` names each column once; the rows above are written in its order."""


def faults(chunk: Chunk) -> list[tuple[int | None, str | None, Reason, str | None]]:
    return [(reject.line, reject.column, reject.reason, reject.value) for reject in chunk.rejects]
