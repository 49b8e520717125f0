"""What a load is told of rows that a retention has taken away: their time, what was exported of them, and how many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from b3_pipeline.errors import B3Error
from b3_pipeline.sessions import Window
from b3_pipeline.tables import Table


class TakenUnreadable(B3Error):
    """What was exported of taken rows cannot be read now, so nothing can be said about records of their time."""


@dataclass(frozen=True)
class Taken:
    """Rows that were exported and then dropped. No load writes in the `windows` of a table.

    `rows` gives what was exported of the UTC day that begins at a moment (naive UTC), with all columns; it raises
    TakenUnreadable. `of_load` is how many rows of a load there were.
    """

    windows: Callable[[Table], Sequence[Window]]
    rows: Callable[[Table, datetime], pa.Table]
    of_load: Callable[[Table, int], int]


def _none(table: Table, _day: datetime) -> pa.Table:
    return table.arrow_schema().empty_table()


NOTHING = Taken(lambda _table: (), _none, lambda _table, _load_id: 0)
