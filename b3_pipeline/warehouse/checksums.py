"""A checksum of rows that says whether two sets of rows are the same, whatever their order and however they were split.

Each row becomes two numbers of 64 bits, made of its values under their columns' names, and rows are summed up: so it is
made in one pass, in bounded memory, and a row that is there twice counts twice. It is no proof against somebody who
forges rows: a file's SHA-256 is there for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from b3_pipeline.tables import Table

#: Two independent sums of 64 bits each.
_LANES = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
#: What FORMATS §2 leaves out of checksums and comparisons: when a row was written, and by which load.
LEFT_OUT = ("ingested_at", "load_id")


def checksum(table: Table, rows: Iterable[pa.Table]) -> str:
    """The checksum of a table's rows, hex, without `ingested_at` and `load_id`; a column that is null counts nothing."""
    summed = Checksum(table)
    for piece in rows:
        summed.add(piece)
    return summed.text()


class Checksum:
    """The checksum of rows that come piece by piece."""

    def __init__(self, table: Table) -> None:
        self.rows = 0
        self._columns = tuple(c for c in table.columns if c.name not in LEFT_OUT)
        self._sums = [0] * len(_LANES)

    def add(self, rows: pa.Table) -> None:
        """Takes the next rows, in the table's Arrow types or with plain text for symbols."""
        hashes = [_values(rows.column(c.name).combine_chunks()) for c in self._columns]
        seeds = [_seed(f"{c.name} {c.type}") for c in self._columns]
        for lane, factor in enumerate(_LANES):
            total = np.zeros(rows.num_rows, np.uint64)
            for (values, given), seed in zip(hashes, seeds, strict=True):
                total += np.where(given, _mixed((values ^ seed) * np.uint64(factor)), np.uint64(0))
            self._sums[lane] += int(_mixed(total ^ np.uint64(factor)).sum(dtype=np.uint64))
        self.rows += rows.num_rows

    def text(self) -> str:
        """The checksum of all rows so far."""
        numbers = [self.rows, *(total % (1 << 64) for total in self._sums)]
        return hashlib.sha256(" ".join(map(str, numbers)).encode()).hexdigest()


def _values(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """A number of 64 bits for each value, equal where the values are; and which are given."""
    given = column.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
        return _texts(column), given
    if pa.types.is_floating(column.type):
        numbers = column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64)
        given = given & ~np.isnan(numbers)  # QuestDB's null of a DOUBLE
        return (numbers + 0.0).view(np.uint64), given  # -0.0 is 0.0
    whole = column.cast(pa.int32()) if pa.types.is_date32(column.type) else column
    return whole.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64), given


def _texts(column: Any) -> np.ndarray:
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    of_each = [_seed(text) for text in encoded.dictionary.to_pylist()]
    codes = encoded.indices.fill_null(len(of_each)).to_numpy(zero_copy_only=False)
    return np.array([*of_each, np.uint64(0)], np.uint64)[codes]


def _seed(text: str | None) -> np.uint64:
    digest = hashlib.blake2b((text or "").encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Each number spread over all of its 64 bits: the finaliser of splitmix64."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
