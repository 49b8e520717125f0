"""Made-up files of any size: a wide CSV as the legacy collectors write it, and the same records long and clean.

Seeded, so that a size is always the same file; written block by block, so that memory does not grow with it. Volumes
are a desk's (five years of sessions, denser as the file grows); the values are chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from b3_pipeline.parsing.legacy_csv import SURFACE, Cell, CsvSpec, WideRecord, number, success, text
from b3_pipeline.sessions import sessions_of
from b3_pipeline.tables import TABLES

pc: Any = pyarrow.compute  # its functions are made at run time, so that no type checker knows them

SEED = 20_251_013
SESSIONS = 1_250
#: No daylight saving time in these years: local time is three hours behind UTC.
_LAST_DAY, _BEHIND_UTC = date(2025, 10, 13), np.timedelta64(3, "h")
_OPENING_S, _DAY_S = 9 * 3600, 9 * 3600
_DAYS_PER_BLOCK = 25
#: One cell in so many is not there, and one in so many is no number.
_ABSENT_EVERY, _WRONG_EVERY = 1_000, 20_000
_TENORS = tuple(f"{month}-{year}" for year in (26, 27) for month in ("jan", "mar", "mai", "jul", "set", "nov"))

#: The dollar index's file, but with a time a row: with a row a day five million records would take millennia.
DXY_TICKS = CsvSpec(
    "dxy_ticks.csv",
    TABLES["b3_dxy_ticks"],
    "value",
    tuple(
        WideRecord(
            {"bucket": f"dxy_{at}"},
            (
                Cell("value", f"dxy_{at}", number),
                Cell("status", f"status_{at}", success),
                Cell("provider", "fonte", text),
            ),
        )
        for at in ("08h50", "08h55", "09h00")
    ),
)


@dataclass(frozen=True)
class Shape:
    """A wide file: its specification, what a row has besides time and numbers, and the numbers' range in hundredths."""

    spec: CsvSpec
    rows_a_moment: int
    low: int
    high: int
    dated: bool  # whether a row ends with its session's date

    @property
    def records_a_row(self) -> int:
        return len(self.spec.records)


SHAPES = {"dxy": Shape(DXY_TICKS, 1, -299, 299, False), "surface": Shape(SURFACE, len(_TENORS), 800, 4_000, True)}


@dataclass(frozen=True)
class Pair:
    """The two files of one size, and how many records the long one has."""

    wide: Path
    long: Path
    clean: int


def write_pair(shape: Shape, records: int, folder: Path) -> Pair:
    """Writes both files of about so many records into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = Pair(folder / shape.spec.file, folder / "long.csv", 0)
    clean = 0
    with ExitStack() as stack:
        wide, long = (stack.enter_context(path.open("wb")) for path in (pair.wide, pair.long))
        wide.write((",".join(_wide_header(shape)) + "\n").encode())
        long.write((",".join(_long_header(shape)) + "\n").encode())
        for block in _blocks(shape, records):
            wide.write(_joined(_wide_columns(shape, block)))
            for part in _long_columns(shape, block):
                clean += len(part[0])
                long.write(_joined(part))
    return Pair(pair.wide, pair.long, clean)


@dataclass(frozen=True)
class _Block:
    """Some rows: local moment (datetime64[s]) and tenor's place of each, and its numbers, a row by a record.

    Numbers are hundredths; `absent` and `wrong` say where there is none.
    """

    local: np.ndarray
    tenor: np.ndarray
    numbers: np.ndarray
    absent: np.ndarray
    wrong: np.ndarray


def _blocks(shape: Shape, records: int) -> Iterator[_Block]:
    """The rows in time's order, some days at a time."""
    days = _last_sessions()
    moments = max(1, records // (SESSIONS * shape.rows_a_moment * shape.records_a_row))
    seconds = _OPENING_S + np.arange(moments) * max(1, _DAY_S // moments)
    chance = np.random.default_rng(SEED)
    for start in range(0, len(days), _DAYS_PER_BLOCK):
        some = days[start : start + _DAYS_PER_BLOCK].astype("datetime64[s]")
        local = np.repeat((some[:, None] + seconds.astype("timedelta64[s]")).ravel(), shape.rows_a_moment)
        size = (len(local), shape.records_a_row)
        yield _Block(
            local,
            np.tile(np.arange(shape.rows_a_moment), len(local) // shape.rows_a_moment),
            chance.integers(shape.low, shape.high, size),
            chance.integers(0, _ABSENT_EVERY, size) == 0,
            chance.integers(0, _WRONG_EVERY, size) == 0,
        )


def _last_sessions() -> np.ndarray:
    last = np.datetime64(_LAST_DAY)
    return np.unique(sessions_of(np.arange(last - 2 * SESSIONS, last + 1)))[-SESSIONS:]


def _wide_header(shape: Shape) -> list[str]:
    values = [shape.spec.value_cell(record).source for record in shape.spec.records]
    if shape.dated:
        return ["data", "hora", "mes", *values, "data_atualizacao"]
    return ["data", "hora", *values, "fonte", *(value.replace("dxy", "status") for value in values)]


def _wide_columns(shape: Shape, block: _Block) -> list[Any]:
    day = _texts(block.local, "%d-%m-%Y")
    values = [_cells(shape, block, at) for at in range(shape.records_a_row)]
    if shape.dated:
        mes = pa.array(_TENORS).take(pa.array(block.tenor))
        return [day, _texts(block.local, "%H:%M:%S"), mes, *values, _texts(block.local, "%d/%m/%Y")]
    constants = ["Yahoo Finance", *["sucesso"] * shape.records_a_row]
    return [day, _texts(block.local, "%H:%M:%S"), *values, *(pa.repeat(c, len(day)) for c in constants)]


def _cells(shape: Shape, block: _Block, record: int) -> Any:
    """Numbers in both notations side by side, as the files have them, and here and there none."""
    span = np.arange(shape.low, shape.high)
    plain = [f"{n / 100:.2f}" for n in span]
    forms = pa.array([*plain, *(f'"{text.replace(".", ",")}"' for text in plain), "-", "n.d."])
    place = block.numbers[:, record] - shape.low
    place = place + len(span) * (place % 5 < 2)  # two in five with a comma
    place[block.absent[:, record]] = 2 * len(span)
    place[block.wrong[:, record]] = 2 * len(span) + 1
    return forms.take(pa.array(place))


def _long_header(shape: Shape) -> list[str]:
    if shape.dated:
        return ["ts", "contract_month", "delta_bucket", "volatility", "updated_at", "feed"]
    return ["ts", "bucket", "value", "status", "provider", "feed"]


def _long_columns(shape: Shape, block: _Block) -> Iterator[list[Any]]:
    """The good records, all of a row together, as columns of text; some rows at a time."""
    keep = ~(block.absent | block.wrong).ravel()
    row = np.repeat(np.arange(len(block.local)), shape.records_a_row)[keep]
    place = pa.array(np.tile(np.arange(shape.records_a_row), len(block.local))[keep])
    ts = _texts(block.local + _BEHIND_UTC, "%Y-%m-%dT%H:%M:%S.000000Z").take(pa.array(row))
    value = pa.array([f"{n / 100:.2f}" for n in range(shape.low, shape.high)]).take(
        pa.array(block.numbers.ravel()[keep] - shape.low)
    )
    constant = next(iter(shape.spec.records[0].constants))
    kind = pa.array([record.constants[constant] for record in shape.spec.records]).take(place)
    feed = pa.repeat("legacy_csv", len(row))
    if shape.dated:
        mes = pa.array(_TENORS).take(pa.array(block.tenor[row]))
        updated = _texts(block.local, "%Y-%m-%dT00:00:00.000Z").take(pa.array(row))
        yield [ts, mes, kind, value, updated, feed]
    else:
        yield [ts, kind, value, pa.repeat("sucesso", len(row)), pa.repeat("Yahoo Finance", len(row)), feed]


def _texts(moments: np.ndarray, form: str) -> Any:
    unique, inverse = np.unique(moments, return_inverse=True)
    return pc.strftime(pa.array(unique), form).take(pa.array(inverse))


def _joined(columns: list[Any]) -> memoryview:
    """Columns of text as the bytes of CSV lines."""
    ended = pc.binary_join_element_wise(columns[-1], "", "\n")
    lines = pc.binary_join_element_wise(*columns[:-1], ended, ",").cast(pa.large_string())
    return memoryview(lines.buffers()[2])
