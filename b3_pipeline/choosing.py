"""Which row counts where there are several: of feeds the one that takes precedence, of contracts the front one."""

from __future__ import annotations

from datetime import date

import pyarrow as pa

from b3_pipeline.loading.compare import firsts, key_ids
from b3_pipeline.parsing.months import to_code
from b3_pipeline.tables import Table

COMPOSED = "composed"
LEGACY_FEEDS = ("legacy_capture", "legacy_csv")
#: Behind the live sources, which come first (FORMATS §2).
_BEHIND = (*LEGACY_FEEDS, COMPOSED)
_RANK = "_rank"


def rank(feed: str) -> int:
    """A feed's place: 0 for the live sources, greater for those that readers take later."""
    return _BEHIND.index(feed) + 1 if feed in _BEHIND else 0


def by_precedence(table: Table, rows: pa.Table) -> pa.Table:
    """Of each key (without its feed) the row of the feed that takes precedence, in time's order."""
    ranks = pa.array([rank(feed) for feed in rows.column("feed").to_pylist()], pa.int64())
    ordered = rows.append_column(_RANK, ranks).sort_by([(table.timestamp, "ascending"), (_RANK, "ascending")])
    keys = [key for key in table.keys if key != "feed"]
    return ordered.take(pa.array(firsts(key_ids(ordered, keys)))).drop_columns(_RANK)


def front_contract(day: date) -> str:
    """The code of the front contract on a local day, which is the next month's: X25 in October 2025."""
    return to_code(day.year + day.month // 12, day.month % 12 + 1)
