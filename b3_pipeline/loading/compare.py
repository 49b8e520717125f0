"""Records against records: which keys are the same, which values differ, and what of a load stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from b3_pipeline.errors import B3Error
from b3_pipeline.parsing.records import ORIGIN
from b3_pipeline.tables import Column, Table

pc: Any = pyarrow.compute  # its functions are made at run time, so that no type checker knows them

_INT64_END = 1 << 63


def key_ids(rows: pa.Table, keys: Sequence[str]) -> np.ndarray:
    """One int64 a row, counted from 0 in the order of first appearance; equal exactly when all key columns are equal."""
    numbers = _key_numbers(rows, keys)
    if is_ascending(numbers, strictly=True):  # as where a file is in order: no two are equal
        return np.arange(len(numbers))
    return _renumbered(numbers)[0]


def is_ascending(numbers: np.ndarray, *, strictly: bool = False) -> bool:
    """Whether no number (or moment) is below the one before it; `strictly`: nor equal to it."""
    before, after = numbers[:-1], numbers[1:]
    return bool((after > before if strictly else after >= before).all())


def _key_numbers(rows: pa.Table, keys: Sequence[str]) -> np.ndarray:
    """One int64 a row, equal exactly when all key columns are equal: the columns' numbers are the digits of it."""
    numbers, size = np.zeros(rows.num_rows, np.int64), 1
    for key in keys:
        digits, base = _digits(rows.column(key).combine_chunks())
        if size * base >= _INT64_END:
            (numbers, size), (digits, base) = _renumbered(numbers), _renumbered(digits)
        numbers, size = numbers * base + digits, size * base
    return numbers


def _digits(column: Any) -> tuple[np.ndarray, int]:
    """Numbers from 0, equal exactly when the values are (a null is one), and what all of them are below."""
    if pa.types.is_timestamp(column.type) and len(column) and not column.null_count:
        moments = column.cast(pa.int64()).to_numpy()
        first = int(moments.min())
        return moments - first, int(moments.max()) - first + 1
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    null = len(encoded.dictionary)
    return encoded.indices.fill_null(null).to_numpy().astype(np.int64), null + 1


def _renumbered(numbers: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers counted from 0 in the order of first appearance, and how many different ones there are."""
    encoded: Any = pa.array(numbers).dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), len(encoded.dictionary)


def firsts(ids: np.ndarray) -> np.ndarray:
    """Where each of `key_ids` appears for the first time: the place of the first row of id 0, 1, 2, …"""
    if not len(ids) or ids[-1] == len(ids) - 1:  # counted from 0, so all are different
        return np.arange(len(ids))
    before = np.concatenate([[-1], np.maximum.accumulate(ids)[:-1]])
    return np.flatnonzero(ids > before)


def _plain(values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    """The values as they are compared: plain text instead of a dictionary, documents in one layout."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(pa.string())
    if column.canonical is not None:
        same = column.canonical
        values = pa.chunked_array([pa.array([v and same(v) for v in values.to_pylist()], values.type)])
    return values


def differing(left: pa.Table, right: pa.Table, columns: Iterable[Column]) -> dict[str, np.ndarray]:
    """Column → which rows differ between two tables of the same length; two nulls are equal, floats are exact."""
    unlike = {}
    for column in columns:
        a, b = _plain(left.column(column.name), column), _plain(right.column(column.name), column)
        equal = pc.or_(pc.fill_null(pc.equal(a, b), False), pc.and_(pc.is_null(a), pc.is_null(b)))
        unlike[column.name] = ~equal.to_numpy()
    return unlike


def any_of(masks: Iterable[np.ndarray], rows: int) -> np.ndarray:
    """Row by row, whether any of the masks holds."""
    result = np.zeros(rows, bool)
    for mask in masks:
        result |= mask
    return result


def pick(rows: pa.Table, where: np.ndarray) -> pa.Table:
    """The rows where the mask holds; all of them without a copy, and none without keeping the others in memory."""
    if where.all():
        return rows
    return rows.filter(pa.array(where)) if where.any() else rows.schema.empty_table()


def unify(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of many, with one dictionary a column, in one chunk."""
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


@dataclass
class Standing:
    """The records of one load that stand after repeats within the load are taken out: the first of each key."""

    table: Table
    records: pa.Table
    duplicate: int = 0

    def __post_init__(self) -> None:
        self.conflicts: list[pa.Table] = []

    def add(self, piece: pa.Table) -> None:
        """Takes the next records, in the payload's order: equal repeats are counted, the origin of others is kept."""
        rows = unify([self.records, piece] if self.records.num_rows else [piece])
        ids = key_ids(rows, self._keys)
        first = firsts(ids)
        if len(first) < rows.num_rows:
            self._set_aside(rows, ids, first)
            rows = rows.take(first)
        self.records = rows

    def _set_aside(self, rows: pa.Table, ids: np.ndarray, first: np.ndarray) -> None:
        repeats = np.delete(np.arange(rows.num_rows), first)
        later, earlier = rows.take(repeats), rows.take(first[ids[repeats]])
        values = [c for c in self.table.values if c.name in rows.column_names]
        conflict = any_of(differing(later, earlier, values).values(), len(repeats))
        self.duplicate += int((~conflict).sum())
        if conflict.any():
            self.conflicts.append(later.filter(pa.array(conflict)).select(ORIGIN.names))

    @property
    def _keys(self) -> list[str]:
        return [k for k in self.table.keys if k in self.records.column_names]


class DuplicateKeys(B3Error):
    """A key is stored twice, so what is stored under it cannot be compared."""


@dataclass(frozen=True)
class Verdict:
    """What the store says of a load's standing records (boolean masks over them, and the rows they would replace)."""

    write: np.ndarray  # new, or another value than stored
    own: np.ndarray  # written by this load before it was interrupted
    contested: (
        np.ndarray
    )  # another value is stored, and it stands: a later load's, or any in a table that is not revisable
    revised: np.ndarray  # written over another value
    old: pa.Table  # the stored rows under `revised`, in order


def judge(table: Table, records: pa.Table, stored: pa.Table, load_id: int) -> Verdict:
    """Applies the table of FORMATS §3 to records whose keys are distinct and to what is stored of their feed.

    A row that a load after this one wrote stands: load ids grow with time, and a load that goes on under its own id
    must not bring back what was revised since.
    """
    if not stored.num_rows:
        none = np.zeros(records.num_rows, bool)
        return Verdict(~none, none, none, none, stored)
    keys = [k for k in table.keys if k in records.column_names]
    both = unify([records.select(keys), stored.select(keys)])
    ids = key_ids(both, keys)
    mine, theirs = ids[: records.num_rows], ids[records.num_rows :]
    if len(np.unique(theirs)) != len(theirs):
        raise DuplicateKeys(f"{table.name} has duplicate keys: its DEDUP was off when they were written. Rebuild it.")
    where = np.full(both.num_rows, -1)
    where[theirs] = np.arange(len(theirs))
    place = where[mine]
    met = place >= 0
    old = stored.take(place[met])
    values = [c for c in table.values if c.name in records.column_names]
    other = np.zeros(records.num_rows, bool)
    other[met] = any_of(differing(pick(records, met), old, values).values(), int(met.sum()))
    by = np.zeros(records.num_rows, np.int64)
    if table.has_feed:
        by[met] = old.column("load_id").to_numpy()
    own, later = met & (by == load_id), met & (by > load_id)
    stands = later if table.revisable else met
    revised = met & other & ~stands
    return Verdict(~met | revised, own, stands & other, revised, pick(old, revised[met]))
