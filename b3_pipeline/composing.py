"""The composed capture: the legacy collector's morning document, made of what our own sources have stored.

Each block has the date of its own data, so nothing is carried forward silently. What a legacy capture brought is never
an input: the comparison with the legacy capture would judge that by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import reduce
from typing import Any

from b3_pipeline.choosing import COMPOSED, LEGACY_FEEDS, front_contract, rank
from b3_pipeline.legacy_documents import LABELS, brazilian, capture_document
from b3_pipeline.parsing.capture import INSTRUMENTS
from b3_pipeline.quality.stored import Condition, condition, during, one_of
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.sessions import Window, is_session, to_local, trade_date
from b3_pipeline.tables import TABLES, Table, indicator_slug

#: The member of a price block that says which session its settlement is of; the legacy blocks have none.
SETTLED_ON = "data_ajuste"
SOURCE = "B3"
COMPOSED_AT = time(9)
#: Older values are no news: a block is rather missing than a month old.
REACH = timedelta(days=30)

_INDICATORS = {indicator_slug(label): label for label in LABELS}
_DECIMALS = {"dolar_cupom_limpo": 4}
_UNUSED_FEEDS = ("legacy_capture", COMPOSED)
_SURFACE = TABLES["b3_vol_surface"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Inputs:
    """The newest stored values, as rows of the tables: a settlement an instrument, a value an indicator, one surface."""

    adjustments: tuple[Row, ...] = ()
    indicators: tuple[Row, ...] = ()
    surface: tuple[Row, ...] = ()

    @property
    def newest(self) -> datetime | None:
        """When the last of them was stored, naive UTC; None when there is none."""
        rows = (*self.adjustments, *self.indicators, *self.surface)
        return max((row["ingested_at"] for row in rows), default=None)


@dataclass(frozen=True)
class Composed:
    """A composed capture of a moment (naive UTC, whole seconds). `feeds` says which feed each block is from."""

    ts: datetime
    document: Mapping[str, Any]
    feeds: Mapping[str, str] = field(default_factory=dict)

    def data(self) -> bytes:
        """The document as the legacy collector would write it."""
        return (json.dumps(self.document, ensure_ascii=False, indent=2) + "\n").encode()


def compose(now: datetime, inputs: Inputs) -> Composed | None:
    """The capture of this moment (UTC) from the newest stored values; None when there is nothing to compose.

    Its status is `sucesso` when each of the three instruments has a price, else `falha`, with whatever there is.
    """
    if inputs == Inputs():
        return None
    ts = _naive(now).replace(microsecond=0)
    local = to_local(ts)
    prices = {row["instrument"]: row for row in inputs.adjustments}
    head = {
        "timestamp": local.isoformat(),
        "data_coleta": f"{local:%d-%m-%Y}",
        "hora_coleta": f"{local:%H:%M:%S}",
        "status": "sucesso" if all(name in prices for name in INSTRUMENTS) else "falha",
        "fonte": SOURCE,
    }
    blocks = capture_document(
        ts,
        [{**row, "price_settlement_prev": row["price_prev"]} for row in inputs.adjustments],
        [_indicator(row) for row in inputs.indicators],
        [{**row, "updated_at": _session(row, row["updated_at"])} for row in inputs.surface],
    )
    for name, row in prices.items():
        blocks[name][SETTLED_ON] = f"{_session(row, row['trade_date']):%d/%m/%Y}"
    return Composed(ts, {**head, **{k: v for k, v in blocks.items() if k not in head}}, _feeds(inputs))


def _indicator(row: Row) -> Row:
    name, value = row["indicator"], row["value"]
    return {
        "name": _INDICATORS[name],
        "display_value": brazilian(value, max(_DECIMALS.get(name, 2), _decimals(value))),
        "updated_at": _session(row, None),
    }


def _decimals(value: float) -> int:
    """How many decimals a number has: the text is all that the document says of it."""
    exponent = Decimal(repr(value)).as_tuple().exponent
    return -exponent if isinstance(exponent, int) and exponent < 0 else 0


def _naive(moment: datetime) -> datetime:
    """A moment (UTC when it has no zone) as naive UTC."""
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def _feeds(inputs: Inputs) -> dict[str, str]:
    named_rows = [(row["instrument"], row) for row in inputs.adjustments]
    named_rows += [(_INDICATORS[row["indicator"]], row) for row in inputs.indicators]
    named_rows += [("superficie_volatilidade", row) for row in inputs.surface[:1]]
    return {name: row["feed"] for name, row in named_rows}


def _session(row: Row, given: date | None) -> date:
    """The day that a value belongs to: what its row says, else for a live source's the day of its time.

    A legacy row of the morning has the values of the session before (FORMATS §3).
    """
    if given is not None:
        return given
    local = to_local(row["ts"])
    return trade_date(local) if row["feed"] in LEGACY_FEEDS else local.date()


def when_due(now: datetime, last_composed_at: datetime | None, newest_inputs: datetime | None) -> bool:
    """Whether a capture is due (all UTC): at 09:00 local on sessions, and when an input was stored since the last one.

    `last_composed_at` is the moment of composing, not the document's whole second; None: there was none yet.
    """
    if newest_inputs is None:
        return False
    if last_composed_at is None:
        return True
    last, local = _naive(last_composed_at), to_local(now)
    morning = datetime.combine(local.date(), COMPOSED_AT)
    in_the_morning = is_session(local.date()) and local >= morning > to_local(last)
    return in_the_morning or _naive(newest_inputs) > last


def read_inputs(db: QuestDB, now: datetime) -> Inputs:
    """The newest values that were stored in the last 30 days before now (UTC), of the feeds by their precedence.

    Newest is the value of the latest session; where several feeds have it, the live source's. Raises QuestDBError.
    """
    end = _naive(now)
    window = Window(end - REACH, end + timedelta(microseconds=1))
    front = front_contract(to_local(end).date())
    of_front = condition("{c} = %s", front, c="contract_month") & one_of("instrument", INSTRUMENTS)
    prices = _rows(db, TABLES["b3_adjustments"], window, of_front, "price_settlement")
    of_labels = one_of("indicator", tuple(_INDICATORS))
    indicators = _rows(db, TABLES["b3_indicators_daily"], window, of_labels, "value")
    by_instrument = _newest((row["instrument"], row["trade_date"], row) for row in prices)
    by_indicator = _newest((row["indicator"], None, row) for row in indicators)
    return Inputs(
        tuple(by_instrument[name] for name in INSTRUMENTS if name in by_instrument),
        tuple(by_indicator[name] for name in _INDICATORS if name in by_indicator),
        _newest_surface(db, window),
    )


def _rows(db: QuestDB, table: Table, window: Window, where: Condition, value: str) -> list[dict[str, Any]]:
    """The rows of a window under a condition that have a value and may be an input, by column name."""
    asked = during(table, window) & _usable(value) & where
    schema = table.arrow_schema()
    query = named("select {columns} from {t} where ", columns=schema.names, t=table.name)
    return db.arrow(query + asked.text, *asked.values, schema=schema).to_pylist()


def _usable(value: str) -> Condition:
    """The rows with a value, of the feeds that may be an input."""
    of_feeds = [condition("{f} != %s", feed, f="feed") for feed in _UNUSED_FEEDS]
    return reduce(Condition.__and__, of_feeds, condition("{v} is not null", v=value))


def _newest(found: Iterable[tuple[str, date | None, Row]]) -> dict[str, Row]:
    """Of each name the row of the latest session; of several feeds' by their precedence, of one feed's the last."""
    best: dict[str, tuple[tuple[Any, ...], Row]] = {}
    for name, given, row in found:
        order = (_order(row, given), -rank(row["feed"]), row["ts"])
        if name not in best or order > best[name][0]:
            best[name] = order, row
    return {name: row for name, (_order, row) in best.items()}


def _order(row: Row, given: date | None) -> date:
    """The session that values are ordered by: of a legacy row by its time, for it dates them by its own collection."""
    return _session(row, None if row["feed"] in LEGACY_FEEDS else given)


def _newest_surface(db: QuestDB, window: Window) -> tuple[Row, ...]:
    """All rows of the surface of the latest session: those of one feed and moment, for a surface is one whole."""
    moments = during(_SURFACE, window) & _usable("volatility")
    query = named("select ts, feed, max(updated_at) updated_at from {t} where ", t=_SURFACE.name)
    found = [
        ("", updated_at and updated_at.date(), {"ts": ts, "feed": feed})
        for ts, feed, updated_at in db.query(query + moments.text + named(" group by ts, feed"), *moments.values)
    ]
    for row in _newest(found).values():
        where = condition("{ts} = %s", row["ts"], ts="ts") & condition("{f} = %s", row["feed"], f="feed")
        return tuple(_rows(db, _SURFACE, window, where, "volatility"))
    return ()
