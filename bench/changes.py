"""Changes in sources, for the benchmark of live collection: payloads of which each brings a record with a time of its own.

Settlements, indicators and surfaces are those of one session after the other, charts of the dollar index of one bucket
after the other, captures and gamma levels of one second after the other. Synthetic, and always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from io import BytesIO
from typing import Any

import pyarrow.compute

from b3_pipeline.loading.archived import KINDS
from b3_pipeline.parsing import kinds
from b3_pipeline.parsing.dxy_chart import EVERY, FIRST
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.sample_payloads import (
    capture,
    dxy_chart,
    financial_indicators,
    gamma_levels,
    settlement_report,
    vol_surface,
)
from b3_pipeline.sessions import session_before, to_utc
from b3_pipeline.tables import TABLES

pc: Any = pyarrow.compute  # its functions are made at run time, so that no type checker knows them

#: The evening of the last session, after all that it brings.
SESSION = date(2025, 10, 14)
NOW = datetime(2025, 10, 15, tzinfo=UTC)
_OF_THE_DAY = kinds.REPORT.name, kinds.FINANCIAL_INDICATORS.name, kinds.VOL_SURFACE.name


@dataclass(frozen=True)
class Shown:
    """Where the records of a source show last: in the last table that is loaded, and which rows of it are the source's."""

    table: str
    rows: Mapping[str, str]


#: The sources that change.
SHOWN = {
    kinds.CAPTURE.name: Shown("b3_captures", {"feed": "legacy_capture", "endpoint": "ultimo-dado"}),
    kinds.GAMMA.name: Shown("b3_captures", {"feed": "legacy_capture", "endpoint": "gamma"}),
    kinds.REPORT.name: Shown("b3_adjustments", {"feed": "b3_sprd"}),
    kinds.FINANCIAL_INDICATORS.name: Shown("b3_indicators_daily", {"feed": "b3_indicators"}),
    kinds.VOL_SURFACE.name: Shown("b3_vol_surface", {"feed": "b3_vol_xlsx"}),
    kinds.DXY_CHART.name: Shown("b3_dxy_ticks", {"feed": "yahoo_dxy"}),
}


@dataclass(frozen=True)
class Change:
    """A new payload of a source: what it is called, its session, and the time (naive UTC) of its newest record."""

    source: str
    name: str
    data: bytes
    session: date
    ts: datetime


def changes(source: str, count: int) -> Iterator[Change]:
    """So many changes of a source, in the order of their times."""
    daily = source in _OF_THE_DAY
    days = sorted(_sessions(count)) if daily else [SESSION] * count
    for number, day in enumerate(days):
        data = _PAYLOADS[source](day, number)
        name = f"SPRD{day:%y%m%d}.zip" if source == kinds.REPORT.name else KINDS[source].file
        yield Change(source, name, data, day, _newest(source, data))


def shown(db: QuestDB, source: str, since: datetime) -> set[datetime]:
    """The times of a source's records that show, from one on (naive UTC)."""
    where = SHOWN[source]
    query = named("select distinct ts from {table} where ts >= %s and feed = %s", table=where.table)
    if "endpoint" in where.rows:
        query += named(" and endpoint = %s")
    return {ts for (ts,) in db.query(query, since, *where.rows.values())}


def _sessions(count: int) -> Iterator[date]:
    """The last sessions, the newest first."""
    day = SESSION
    for _ in range(count):
        yield day
        day = session_before(day)


def _newest(source: str, data: bytes) -> datetime:
    table = TABLES[SHOWN[source].table]
    (chunk,) = KINDS[source].parse(BytesIO(data), table).chunks
    newest = pc.max(chunk.records.column(table.timestamp)).as_py()
    assert newest is not None, f"a payload of {source} without a record"
    return newest


def _second(day: date, number: int) -> datetime:
    return _utc(day, time(9)) + timedelta(seconds=number)


def _utc(day: date, local: time) -> datetime:
    return to_utc(datetime.combine(day, local)).replace(tzinfo=UTC)


_PAYLOADS: dict[str, Callable[[date, int], bytes]] = {
    kinds.CAPTURE.name: lambda day, number: capture(_second(day, number)),
    kinds.GAMMA.name: lambda day, number: gamma_levels(_second(day, number)),
    kinds.REPORT.name: lambda day, _: settlement_report(day),
    kinds.FINANCIAL_INDICATORS.name: lambda day, _: financial_indicators(day),
    kinds.VOL_SURFACE.name: lambda day, _: vol_surface(day),
    kinds.DXY_CHART.name: lambda day, number: dxy_chart(_utc(day, FIRST) + number * EVERY + timedelta(seconds=20)),
}
