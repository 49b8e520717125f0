"""The tables as pages of documents: which columns are asked, and how a row reads (rows to documents are pure functions)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from b3_pipeline.api import paging
from b3_pipeline.api.paging import Found, Listing, Position
from b3_pipeline.api.store import Store
from b3_pipeline.api.v1 import figures, models
from b3_pipeline.api.v1.figures import aware, change_of, day_of
from b3_pipeline.api.v1.filters import SurfaceFilters
from b3_pipeline.choosing import rank
from b3_pipeline.parsing.months import as_code, year_and_month
from b3_pipeline.quality.sources import feeds_of
from b3_pipeline.quality.stored import condition
from b3_pipeline.signals.active import ACTIVE, SIGNALS
from b3_pipeline.tables import TABLES, Table, indicator_slug

Row = Mapping[str, Any]
#: Deltas of one tenor: 1 5 10 25 37 50 63 75 90 95 99.
_DELTAS = 11
#: One moment has no more rows of a surface than this: 99 deltas of some hundred tenors.
_OF_A_MOMENT = 20_000


def of_table(table: Table) -> Listing:
    """A market table in pages."""
    columns = tuple(c.name for c in table.columns if c.name not in ("ingested_at", "load_id"))
    keys = tuple(key for key in table.keys if key not in (table.timestamp, "feed"))
    return Listing(table.name, columns, keys, len(feeds_of(table)))


SNAPSHOTS = of_table(TABLES["b3_snapshots"])
INDICATORS = of_table(TABLES["b3_indicators"])
DAILY = of_table(TABLES["b3_indicators_daily"])
GAMMA = of_table(TABLES["b3_gamma_levels"])
ADJUSTMENTS = of_table(TABLES["b3_adjustments"])
DXY = of_table(TABLES["b3_dxy_ticks"])
SURFACE = of_table(TABLES["b3_vol_surface"])
LOADS = Listing("b3_loads", tuple(c.name for c in TABLES["b3_loads"].columns), ("load_id",), numbers=("load_id",))
SIGNALS_ACTIVE = Listing(
    ACTIVE,
    tuple(c.name for c in SIGNALS.columns if c.name != "ingested_at"),
    tuple(key for key in SIGNALS.keys if key != SIGNALS.timestamp),
)


def snapshot(row: Row) -> models.Snapshot:
    price, previous = row["price_settlement"], row["price_settlement_prev"]
    return models.Snapshot(
        at=aware(row["ts"]),
        session=figures.capture_session(row["ts"]),
        instrument=row["instrument"],
        contract_month=row["contract_month"],
        price=price,
        previous=previous,
        change=change_of(price, previous),
        status=row["status"],
        source=row["source"],
        feed=row["feed"],
    )


def indicator(row: Row) -> models.Indicator:
    return models.Indicator(
        at=aware(row["ts"]),
        name=row["name"],
        indicator=indicator_slug(row["name"]),
        value=row["value"],
        display_value=row["display_value"],
        updated_at=day_of(row["updated_at"]),
        feed=row["feed"],
    )


def daily_indicator(row: Row) -> models.DailyIndicator:
    return models.DailyIndicator(at=aware(row["ts"]), indicator=row["indicator"], value=row["value"], feed=row["feed"])


def adjustment(row: Row) -> models.Adjustment:
    session: date | None = day_of(row["trade_date"])
    return models.Adjustment(**figures.settlement_fields(row, session), status=row["status"])


def dxy_tick(row: Row) -> models.DxyTick:
    names = ("bucket", "value", "status", "provider", "feed")
    return models.DxyTick(at=aware(row["ts"]), **{name: row[name] for name in names})


def load(row: Row) -> models.Load:
    rest = {name: value for name, value in row.items() if name not in ("ts", "table_name")}
    return models.Load(at=aware(row["ts"]), table=row["table_name"], **rest)


def signal(row: Row) -> models.Signal:
    return models.Signal(at=aware(row["ts"]), **{name: value for name, value in row.items() if name != "ts"})


def smiles(rows: Sequence[Row], one_a_key: bool) -> list[models.Smile]:
    """The tenors of surfaces, each whole: newest first, in each the tenors by date, deltas by number.

    A tenor is one feed's: of several feeds' that of the feed that takes precedence (`one_a_key`), or each.
    """
    found: dict[tuple[datetime, str, str], dict[int, Row]] = {}
    for row in rows:
        key = row["ts"], row["contract_month"], row["feed"]
        found.setdefault(key, {})[figures.delta_of(row["delta_bucket"])] = row
    ordered = sorted(found, key=lambda key: (_newest_first(key[0]), year_and_month(key[1]), rank(key[2]), key[2]))
    given: set[tuple[datetime, str]] = set()
    chosen = []
    for key in ordered:
        if one_a_key and key[:2] in given:
            continue
        given.add(key[:2])
        chosen.append(_smile(key[0], key[1], key[2], found[key]))
    return chosen


def _newest_first(moment: datetime) -> float:
    return -aware(moment).timestamp()


def _smile(moment: datetime, tenor: str, feed: str, deltas: Mapping[int, Row]) -> models.Smile:
    ordered = sorted(deltas)
    return models.Smile(
        at=aware(moment),
        updated_at=day_of(deltas[ordered[0]]["updated_at"]),
        tenor=tenor,
        contract_month=as_code(tenor),
        deltas=ordered,
        volatilities=[deltas[delta]["volatility"] for delta in ordered],
        feed=feed,
    )


async def surface_page(store: Store, filters: SurfaceFilters) -> tuple[list[models.Smile], Position | None]:
    """A page of whole tenors, and the position of the last where there is more. Raises StoreAway, Problem."""
    where, after = filters.where(), filters.position_of(int, str)
    begun: list[paging.Row] = []
    asked = where
    if after:  # of its moment some tenors are still to come
        begun = await paging.newest(store, SURFACE, where & condition("{ts} = %s", after.ts, ts="ts"), _OF_A_MOMENT)
        asked = where & condition("{ts} < %s", after.ts, ts="ts")
    wanted = (filters.limit + 1) * _DELTAS * max(1, SURFACE.feeds if filters.feed is None else 1)
    rows = await paging.newest(store, SURFACE, asked, wanted)
    cut = len(rows) == wanted
    if cut:  # the last moment may not be whole
        last = rows[-1]["ts"]
        rows = [row for row in rows if row["ts"] > last]
        rows += await paging.newest(store, SURFACE, where & condition("{ts} = %s", last, ts="ts"), _OF_A_MOMENT)
    return await asyncio.to_thread(_smiles_page, [*begun, *rows], filters, after, cut)


def _smiles_page(
    rows: Sequence[Row], filters: SurfaceFilters, after: Position | None, cut: bool
) -> tuple[list[models.Smile], Position | None]:
    """The page that these rows make; `cut`: there are more rows than these. Some hundred ms of work: not for the event loop."""
    found = smiles(rows, filters.one_a_key)
    if after:
        found = [smile for smile in found if _place(smile) > (_newest_first(after.ts), *after.keys)]
    more = cut or len(found) > filters.limit
    found = found[: filters.limit]
    return found, _position(found[-1]) if more and found else None


def _place(smile: models.Smile) -> tuple[float, int, str]:
    """Where a tenor stands in the order of all."""
    return _newest_first(smile.at.replace(tzinfo=None)), _month(smile.tenor), _feed_place(smile.feed)


def _position(smile: models.Smile) -> Position:
    return Position(smile.at.replace(tzinfo=None), (_month(smile.tenor), _feed_place(smile.feed)))


def _month(tenor: str) -> int:
    year, month = year_and_month(tenor)
    return year * 100 + month


def _feed_place(feed: str) -> str:
    return f"{rank(feed)} {feed}"


async def table_page(
    store: Store, listing: Listing, filters: Any, document: Callable[[Row], Any]
) -> tuple[list[Any], Position | None]:
    """A page of a table's documents, and the position of the last where there is more. Raises StoreAway, Problem."""
    found: Found = await paging.page(
        store, listing, filters.where(), filters.limit, filters.position(listing), filters.one_a_key
    )
    return await asyncio.to_thread(list, map(document, found.rows)), found.last
