"""The four wide CSV files of the legacy folder: what each holds, and how its rows become records.

A file is a `CsvSpec`; one mechanism reads them all, column by column. Rules and shapes: FORMATS §1 and §3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import time
from functools import cache, lru_cache
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from b3_pipeline.parsing.ahead import ahead
from b3_pipeline.parsing.csv_rows import Block, open_rows
from b3_pipeline.parsing.months import is_code, is_tenor
from b3_pipeline.parsing.numbers import each_once, is_absent, parse_numbers, where_absent
from b3_pipeline.parsing.records import (
    COLUMN,
    LINE,
    Chunk,
    Chunks,
    FileRejected,
    Reason,
    Reject,
    has_controls,
    record_schema,
)
from b3_pipeline.parsing.times import parse_dates, parse_times, seconds_of
from b3_pipeline.sessions import days_and_seconds_to_utc, trade_dates
from b3_pipeline.tables import TABLES, Range, Table

DATE_COLUMN, TIME_COLUMN = "data", "hora"
#: What stands in a `status_` column when nothing was collected.
FAILED = "falha"
_SOME_DAY = np.datetime64("2000-01-03", "D")


@dataclass(frozen=True)
class Parsed:
    """A source column, parsed: arrays of one length, and which rows may not be stored because of it.

    `values` are float64, datetime64, or int32 places in `texts`; what stands where `null` holds has no meaning.
    """

    values: np.ndarray
    null: np.ndarray
    faults: tuple[tuple[np.ndarray, Reason], ...] = ()
    texts: pa.StringArray | None = None


CellParser = Callable[[pa.DictionaryArray, Range], Parsed]


def number(texts: pa.DictionaryArray, bounds: Range) -> Parsed:
    """A number within the hard bounds, or nothing."""
    found = parse_numbers(texts)
    outside = ~(found.absent | found.bad | bounds.mask(found.values))
    return Parsed(found.values, found.absent, ((found.bad, Reason.BAD_NUMBER), (outside, Reason.OUT_OF_BOUNDS)))


def slashed_date(texts: pa.DictionaryArray, _bounds: Range) -> Parsed:
    """A dd/mm/yyyy date, or nothing."""
    absent = where_absent(texts)
    days, bad = parse_dates(texts, "/")
    return Parsed(days, absent, ((bad & ~absent, Reason.BAD_DATE),))


def text(texts: pa.DictionaryArray, _bounds: Range) -> Parsed:
    """Any text that can be shown, or nothing."""
    return _checked_texts(texts, (has_controls, Reason.BAD_TEXT))


def success(texts: pa.DictionaryArray, _bounds: Range) -> Parsed:
    """A text as `text`, but not the one that says that the collection failed."""
    return _checked_texts(texts, (has_controls, Reason.BAD_TEXT), (FAILED.__eq__, Reason.STATUS_FAILED))


def month_code(texts: pa.DictionaryArray, _bounds: Range) -> Parsed:
    """A contract month as futures write it, `X25`."""
    return _checked_texts(
        texts, (is_absent, Reason.MISSING_CONTRACT), (lambda each: not is_code(each), Reason.BAD_CONTRACT)
    )


def tenor(texts: pa.DictionaryArray, _bounds: Range) -> Parsed:
    """A contract month as the volatility surface writes it, `nov-25`."""
    return _checked_texts(
        texts, (is_absent, Reason.MISSING_CONTRACT), (lambda each: not is_tenor(each), Reason.BAD_CONTRACT)
    )


def _checked_texts(texts: pa.DictionaryArray, *checks: tuple[Callable[[str], bool], Reason]) -> Parsed:
    """Texts, and for each check the rows that fail it: those of whose text it is true."""
    dictionary, places = each_once(texts)
    different = dictionary.to_pylist()

    def where(holds: Callable[[str], bool]) -> np.ndarray:
        return np.fromiter(map(holds, different), dtype=bool, count=len(different))[places]

    faults = tuple((where(fails), reason) for fails, reason in checks)
    return Parsed(places, where(is_absent), faults, dictionary)


@dataclass(frozen=True)
class Cell:
    """A source column that fills a column of the table."""

    target: str
    source: str
    kind: CellParser


@dataclass(frozen=True)
class WideRecord:
    """One of the records in a wide row.

    `constants` are the table's columns that the place in the row stands for; `cells` go by precedence, when several
    are wrong. The record's local time is `at`, or that of the row's time column.
    """

    constants: Mapping[str, str]
    cells: tuple[Cell, ...]
    at: time | None = None


@dataclass(frozen=True)
class CsvSpec:
    """A wide file: each row holds one candidate for each of `records`.

    `value` is the table's column without which a record is absent; `trade_date` the one that gets the row's session.
    """

    file: str
    table: Table
    value: str
    records: tuple[WideRecord, ...]
    trade_date: str | None = None

    @property
    def required(self) -> tuple[str, ...]:
        """The source columns that the file must have."""
        times = [TIME_COLUMN] if any(record.at is None for record in self.records) else []
        sources = [cell.source for record in self.records for cell in record.cells]
        return tuple(dict.fromkeys([DATE_COLUMN, *times, *sources]))

    def value_cell(self, record: WideRecord) -> Cell:
        """The cell of a record's value."""
        return next(cell for cell in record.cells if cell.target == self.value)


ADJUSTMENTS = CsvSpec(
    "ajustes_b3.csv",
    TABLES["b3_adjustments"],
    "price_settlement",
    tuple(
        WideRecord(
            {"instrument": name.upper()},
            (
                Cell("contract_month", f"{name}_vencimento", month_code),
                Cell("price_settlement", f"{name}_preco_numerico", number),
                Cell("price_prev", f"{name}_preco_anterior_numerico", number),
                Cell("status", "status", text),
            ),
        )
        for name in ("ddi", "di1", "dol")
    ),
    trade_date="trade_date",
)
INDICATORS = CsvSpec(
    "indicadores_b3.csv",
    TABLES["b3_indicators_daily"],
    "value",
    tuple(
        WideRecord({"indicator": name}, (Cell("value", name, number),))
        for name in ("taxa_selic", "taxa_sofr", "dolar_cupom_limpo", "dif_oper_casada")
    ),
)
SURFACE = CsvSpec(
    "superficie_volatilidade_b3.csv",
    TABLES["b3_vol_surface"],
    "volatility",
    tuple(
        WideRecord(
            {"delta_bucket": f"delta_{delta}"},
            (
                Cell("contract_month", "mes", tenor),
                Cell("volatility", f"delta_{delta}", number),
                Cell("updated_at", "data_atualizacao", slashed_date),
            ),
        )
        for delta in (1, 5, 10, 25, 37, 50, 63, 75, 90, 95, 99)
    ),
)
DXY = CsvSpec(
    "dxy_coleta.csv",
    TABLES["b3_dxy_ticks"],
    "value",
    tuple(
        WideRecord(
            {"bucket": f"dxy_{at:%Hh%M}"},
            (
                Cell("value", f"dxy_{at:%Hh%M}", number),
                Cell("status", f"status_{at:%Hh%M}", success),
                Cell("provider", "fonte", text),
            ),
            at,
        )
        for at in (time(8, 50), time(8, 55), time(9, 0))
    ),
)
#: The wide files by name, in the order in which they are taken.
LEGACY_CSV: dict[str, CsvSpec] = {spec.file: spec for spec in (ADJUSTMENTS, INDICATORS, SURFACE, DXY)}


@dataclass(frozen=True)
class ParsedCsv:
    """A file whose header fits: its chunks (to be read once, while the stream is open), and the columns not used."""

    chunks: Chunks
    ignored_columns: tuple[str, ...]

    def __iter__(self) -> Iterator[Chunk]:
        return self.chunks


def parse_csv(spec: CsvSpec, stream: BinaryIO) -> ParsedCsv:
    """Reads the header at once and the rows as they are asked for: candidates = rows × records a row.

    Raises `EmptyFile` for a file without a header, `FileRejected` for one that is no CSV or lacks a column.
    """
    rows = open_rows(stream)
    if missing := [name for name in spec.required if name not in rows.header]:
        raise FileRejected(
            f"this is not {spec.file} as it is known: its header (separator {rows.separator}) lacks {', '.join(missing)}"
        )
    ignored = tuple(name for name in rows.header if name and name not in spec.required)
    chunks = ahead(lambda lines: _explode(spec, rows.block(lines, spec.required)), rows.rest)
    return ParsedCsv(chunks, ignored)


@dataclass(frozen=True)
class _Judged:
    """One of the row's records over all rows of a block, in arrays of one length.

    `fault` is 0 where nothing is wrong, else the place (from 1) in `faults`: the source column and the reason.
    """

    columns: dict[str, Parsed]
    absent: np.ndarray
    fault: np.ndarray
    faults: list[tuple[str, Reason]]


@dataclass(frozen=True)
class _Moments:
    """The rows' times at one local time of day, or at their own: columns by target, and faults by source column."""

    columns: dict[str, Parsed]
    faults: list[tuple[str, np.ndarray, Reason]]


def _explode(spec: CsvSpec, block: Block) -> Chunk:
    """A block's rows as records, row by row and in each row by the order of the spec."""
    days = parse_dates(block.columns[DATE_COLUMN], "-")
    moments = cache(lambda at: _moments(spec, block, at, *days))
    parsed = cache(lambda cell, bounds: cell.kind(block.columns[cell.source], bounds))
    judged = [_judge(spec, record, moments(record.at), parsed, len(block.lines)) for record in spec.records]
    absent = np.stack([each.absent for each in judged], axis=1)
    fault = np.stack([each.fault for each in judged], axis=1)
    rejects = [*_faulty_rows(spec, block, fault, judged), *_wrong_lines(spec, block)]
    rejects.sort(key=lambda reject: reject.line or 0)
    return Chunk(_records(spec, block, judged, ~absent & (fault == 0)), rejects, int(absent.sum()))


def _moments(spec: CsvSpec, block: Block, at: time | None, days: np.ndarray, bad_days: np.ndarray) -> _Moments:
    days = np.where(bad_days, _SOME_DAY, days)
    faults = [(DATE_COLUMN, bad_days, Reason.BAD_DATE)]
    if at is None:
        seconds, bad_times = parse_times(block.columns[TIME_COLUMN])
        faults.append((TIME_COLUMN, bad_times, Reason.BAD_TIME))
    else:
        seconds = np.full(len(days), seconds_of(at))
    utc, nonexistent = days_and_seconds_to_utc(days, seconds)
    # A time of day that is the column's own is always possible; then it is the date that does not fit.
    faults.append((TIME_COLUMN if at is None else DATE_COLUMN, nonexistent, Reason.NONEXISTENT_TIME))
    columns = {spec.table.timestamp: _complete(utc)}
    if spec.trade_date:
        columns[spec.trade_date] = _complete(trade_dates(days, seconds))
    return _Moments(columns, faults)


def _judge(
    spec: CsvSpec, record: WideRecord, moments: _Moments, parsed: Callable[[Cell, Range], Parsed], rows: int
) -> _Judged:
    """What one of the row's records is in each row: absent, at fault, or neither. The first fault of a row counts."""
    columns = dict(moments.columns)
    for target, constant in record.constants.items():
        columns[target] = _complete(np.zeros(rows, dtype=np.int32), pa.array([constant]))
    found = list(moments.faults)
    rows_at_fault = np.logical_or.reduce([mask for _, mask, _ in found])
    for cell in record.cells:
        column = spec.table.column(cell.target)
        columns[cell.target] = parsed(cell, column.bounds(record.constants.get(column.bounds_by or "")))
        found += [(cell.source, mask, reason) for mask, reason in columns[cell.target].faults]
    absent = columns[spec.value].null & ~rows_at_fault
    fault = np.zeros(rows, dtype=np.int8)
    for place, (_, mask, _) in enumerate(found, start=1):
        fault[mask & ~absent & (fault == 0)] = place
    return _Judged(columns, absent, fault, [(source, reason) for source, _, reason in found])


def _faulty_rows(spec: CsvSpec, block: Block, fault: np.ndarray, judged: list[_Judged]) -> Iterator[Reject]:
    values = [spec.value_cell(record).source for record in spec.records]
    text_of = lru_cache(maxsize=1)(block.text)  # all records of a row share one text
    for row, record in np.argwhere(fault).tolist():
        source, reason = judged[record].faults[fault[row, record] - 1]
        line = int(block.lines[row])
        yield Reject(line, source, text_of(line), reason, block.columns[source][row].as_py(), values[record])


def _wrong_lines(spec: CsvSpec, block: Block) -> Iterator[Reject]:
    sources = [spec.value_cell(record).source for record in spec.records]
    for line in block.wrong.tolist():
        text = block.text(line)
        yield from (Reject(line, source, text, Reason.FIELD_COUNT, record=source) for source in sources)


def _records(spec: CsvSpec, block: Block, judged: list[_Judged], kept: np.ndarray) -> pa.Table:
    """The kept records (bool, a row by a record) in the schema of chunks."""
    rows, records = kept.shape
    schema = record_schema(spec.table)
    sources = pa.array([spec.value_cell(record).source for record in spec.records])
    columns: dict[str, Any] = {
        name: _by_turns([each.columns[name] for each in judged], kept.ravel(), schema.field(name).type)
        for name in judged[0].columns
    }
    columns[LINE] = pa.array(np.repeat(block.lines, records)[kept.ravel()])
    places = np.tile(np.arange(records, dtype=np.int32), rows)[kept.ravel()]
    columns[COLUMN] = pa.DictionaryArray.from_arrays(pa.array(places), sources)
    nulls = {field.name: pa.nulls(len(places), field.type) for field in schema if field.name not in columns}
    return pa.table({**columns, **nulls}).select(schema.names).cast(schema)


def _by_turns(parts: list[Parsed], kept: np.ndarray, arrow_type: pa.DataType) -> Any:
    """The first rows of all parts, then the second ones, and so on; of these the kept ones, as an Arrow array."""
    null = np.stack([part.null for part in parts], axis=1).ravel()[kept]
    values, texts = [part.values for part in parts], None
    if parts[0].texts is not None:
        unified = pa.chunked_array(
            [pa.DictionaryArray.from_arrays(pa.array(part.values), part.texts) for part in parts]
        ).unify_dictionaries()
        values, texts = [chunk.indices.to_numpy() for chunk in unified.chunks], unified.chunk(0).dictionary
    turned = np.stack(values, axis=1).ravel()[kept]
    if texts is not None:
        return pa.DictionaryArray.from_arrays(pa.array(turned, mask=null), texts)
    return pa.array(turned, arrow_type, mask=null)


def _complete(values: np.ndarray, texts: pa.StringArray | None = None) -> Parsed:
    return Parsed(values, np.zeros(len(values), dtype=bool), texts=texts)
