"""Any number of records in bounded memory: set aside on disk by time, and given back in pieces in time's order."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

#: Records kept in memory; more go to disk. 500 000 of the widest table are about 100 MB in Arrow.
IN_MEMORY = 500_000
_MONTH_US = 30 * 86_400_000_000


class TimeBuckets:
    """Collects records and gives them back bucket by bucket: all records of one key are in the same bucket.

    A bucket is a stretch of time that holds at most about `limit` records, given as pieces in the order in which they
    came. Few records are one bucket and never touch the disk. Use in a `with` block: it removes its files.
    """

    def __init__(
        self, schema: pa.Schema, spool: Path, limit: int = IN_MEMORY, timestamp: str = "ts", width_us: int = _MONTH_US
    ) -> None:
        self.schema, self.limit, self.timestamp, self.width = schema, limit, timestamp, width_us
        self._spool = spool
        self._folder: Path | None = None
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._rows: dict[int, int] = defaultdict(int)

    def __enter__(self) -> TimeBuckets:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, records: pa.Table) -> None:
        """Takes records, in the payload's order."""
        self._pending.append(records)
        self._pending_rows += records.num_rows
        if self._pending_rows > self.limit:
            self._spill()

    def buckets(self) -> Iterator[Iterator[pa.Table]]:
        """The buckets in time's order, each as its pieces. Consume one before asking for the next."""
        if self._folder is None:
            yield iter([pa.concat_tables(self._pending)] if self._pending else [])
            return
        self._spill()
        for numbers in self._neighbours():
            if self._rows[numbers[0]] > self.limit and self.width > 1:
                yield from self._split(numbers[0])
            else:
                yield self._pieces(numbers)

    def _neighbours(self) -> Iterator[list[int]]:
        """Buckets that are next to each other, as many as hold `limit` records together; a larger one stays alone."""
        together: list[int] = []
        for number in sorted(self._rows):
            if together and sum(self._rows[n] for n in [*together, number]) > self.limit:
                yield together
                together = []
            together.append(number)
        if together:
            yield together

    def _split(self, number: int) -> Iterator[Iterator[pa.Table]]:
        parts = -(-self._rows[number] // self.limit) * 2
        with TimeBuckets(self.schema, self._spool, self.limit, self.timestamp, max(1, self.width // parts)) as finer:
            for piece in self._pieces([number]):
                finer.add(piece)
            yield from finer.buckets()

    def _spill(self) -> None:
        if not self._pending_rows:
            return
        rows = pa.concat_tables(self._pending)
        self._pending, self._pending_rows = [], 0
        if self._folder is None:
            self._spool.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix="load-", dir=self._spool))
        numbers = rows.column(self.timestamp).cast(pa.int64()).to_numpy() // self.width
        if (numbers[1:] < numbers[:-1]).any():
            order = np.argsort(numbers, kind="stable")
            rows, numbers = rows.unify_dictionaries().take(order), numbers[order]
        starts = [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist(), len(numbers)]
        for start, end in pairwise(starts):
            self._append(int(numbers[start]), rows.slice(start, end - start))

    def _append(self, number: int, rows: pa.Table) -> None:
        assert self._folder is not None
        with (self._folder / str(number)).open("ab") as file, pa.ipc.new_stream(file, self.schema) as stream:
            stream.write_table(rows)
        self._rows[number] += rows.num_rows

    def _pieces(self, numbers: list[int]) -> Iterator[pa.Table]:
        """The records of some neighbouring buckets, as tables of about `limit` records."""
        piece: list[pa.Table] = []
        for part in (part for number in numbers for part in self._parts(number)):
            piece.append(part)
            if sum(p.num_rows for p in piece) >= self.limit:
                yield pa.concat_tables(piece)
                piece = []
        if piece:
            yield pa.concat_tables(piece)

    def _parts(self, number: int) -> Iterator[pa.Table]:
        assert self._folder is not None
        path = self._folder / str(number)
        with pa.memory_map(str(path)) as file:
            while file.tell() < file.size():
                with pa.ipc.open_stream(file) as stream:
                    yield stream.read_all()
        path.unlink()
