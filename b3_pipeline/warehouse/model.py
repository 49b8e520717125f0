"""What the warehouse holds: which tables, in which types of PostgreSQL's, and what is derived for its views.

The migrations write this down version by version; a test holds both together. Views and functions are in the migrations
alone. Times are `timestamptz`, true UTC as everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from b3_pipeline.choosing import LEGACY_FEEDS, front_contract, rank
from b3_pipeline.parsing.months import CODE_LETTERS, as_tenor, year_and_month
from b3_pipeline.tables import TABLES, Table

if TYPE_CHECKING:
    import sqlalchemy as sa

SCHEMA = "warehouse"
#: The tables that are loaded from the exports; retention asks for them before it drops (`loaded.py`).
WAREHOUSE_TABLES: tuple[Table, ...] = tuple(
    TABLES[name]
    for name in (
        "tp_capital_signals",
        "tp_capital_signals_deleted",
        "b3_adjustments",
        "b3_indicators_daily",
        "b3_vol_surface",
        "b3_gamma_levels",
        "b3_dxy_ticks",
        "b3_snapshots",
    )
)
#: The days of the calendar, both included.
FIRST_DAY, LAST_DAY = date(2000, 1, 1), date(2050, 12, 31)
#: The futures on the index, which expire in even months only.
_OF_THE_INDEX = ("WIN", "IND")
_FUTURE = re.compile(rf"(DI1|DDI|DOL|WDO|WIN|IND)([{CODE_LETTERS}][0-9]{{2}})")
_OPTION = re.compile(r"([A-Z][A-Z0-9]{3})([A-X])[0-9]{1,4}(?:W[1-5])?E?")
_SHARE = re.compile(r"([A-Z][A-Z0-9]{3})[0-9]{1,2}F?")


@dataclass(frozen=True)
class Asset:
    """What a ticker of B3's says: `kind` is future, option, share or other.

    A future has instrument and contract month; an option its underlying's four letters, its right (call or put) and the
    month (1–12) of its expiry, whose year the ticker does not say.
    """

    kind: str
    underlying: str | None = None
    option_right: str | None = None
    expiry_month: int | None = None
    instrument: str | None = None
    contract_month: str | None = None


def asset_of(ticker: str) -> Asset:
    """Reads a ticker: WINZ25 is a future, ITUBX36 a put that expires in a December, PETR4 a share."""
    if found := _FUTURE.fullmatch(ticker):
        return Asset("future", instrument=found[1], contract_month=found[2])
    if found := _OPTION.fullmatch(ticker):
        series = ord(found[2]) - ord("A")  # A to L are the calls of January to December, M to X the puts
        return Asset("option", found[1], "put" if series >= 12 else "call", series % 12 + 1)
    if found := _SHARE.fullmatch(ticker):
        return Asset("share", found[1])
    return Asset("other")


def front_of(instrument: str, day: date) -> str:
    """The front contract of an instrument on a local day: the next month's; on the index, the next even month's."""
    front = front_contract(day)
    if instrument in _OF_THE_INDEX and year_and_month(front)[1] % 2:
        return front_contract((day.replace(day=1) + timedelta(days=32)).replace(day=1))
    return front


@dataclass(frozen=True)
class Dimension:
    """A small table whose rows say of a text in other tables what our own rules know of it."""

    name: str
    key: str
    columns: tuple[str, ...]
    describe: Callable[[str], tuple[Any, ...]]  # the values of `columns` for a text


def _feed(feed: str) -> tuple[int, bool]:
    return rank(feed), feed in LEGACY_FEEDS


def _asset(ticker: str) -> tuple[Any, ...]:
    asset = asset_of(ticker)
    return tuple(getattr(asset, column) for column in _ASSET_COLUMNS)


_ASSET_COLUMNS = ("kind", "underlying", "option_right", "expiry_month", "instrument", "contract_month")
FEEDS = Dimension("feeds", "feed", ("rank", "legacy"), _feed)
ASSETS = Dimension("assets", "asset", _ASSET_COLUMNS, _asset)
DIMENSIONS = (FEEDS, ASSETS)
DAY_COLUMNS = (
    "day",
    "session",
    "previous_session",
    "front",
    "front_before",
    "index_front",
    "index_front_before",
    "front_tenor",
)


def days() -> Iterator[tuple[Any, ...]]:
    """The calendar, a row a local day: the session it belongs to, the one before it, and the front contracts.

    `…_before` are the front contracts of a month earlier, which the desk still knows prices of when a month begins.
    """
    import numpy as np

    from b3_pipeline.sessions import sessions_of

    span = np.arange(np.datetime64(FIRST_DAY), np.datetime64(LAST_DAY + timedelta(days=1)))
    before = sessions_of(span - np.timedelta64(1, "D")).tolist()
    for day, session, previous in zip(span.tolist(), sessions_of(span).tolist(), before, strict=True):
        earlier = day.replace(day=1) - timedelta(days=1)
        fronts = [front_of(instrument, each) for instrument in ("DOL", "WIN") for each in (day, earlier)]
        yield day, session, previous, *fronts, as_tenor(fronts[0])


def metadata() -> sa.MetaData:
    """The tables as SQLAlchemy knows them; what the migrations make is compared with it."""
    import sqlalchemy as sa

    types: dict[str, Any] = {
        "TIMESTAMP": sa.DateTime(timezone=True),
        "DATE": sa.Date(),
        "SYMBOL": sa.Text(),
        "VARCHAR": sa.Text(),
        "DOUBLE": sa.Double(),
        "LONG": sa.BigInteger(),
    }
    whole = sa.MetaData(schema=SCHEMA)
    for table in WAREHOUSE_TABLES:
        columns = [sa.Column(c.name, types[c.type], primary_key=c.name in table.keys) for c in table.columns]
        sa.Table(table.name, whole, *columns)
    return whole
