"""The contract of every QuestDB table, written once: columns, types, keys, bounds, retention.

DDL check, parsers, writer, Dagster metadata and checks all read it; nothing else repeats it. Types are QuestDB's.
Sources: `FORMATS.md` §2 (columns and keys), §3 (bounds of market data) and §6 (rules of TP-Capital).
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

QuestType = Literal["TIMESTAMP", "DATE", "SYMBOL", "VARCHAR", "DOUBLE", "LONG"]
ARROW_TYPES: dict[QuestType, pa.DataType] = {
    "TIMESTAMP": pa.timestamp("us"),  # true UTC, without a zone
    "DATE": pa.date32(),
    "SYMBOL": pa.dictionary(pa.int32(), pa.string()),
    "VARCHAR": pa.string(),
    "DOUBLE": pa.float64(),
    "LONG": pa.int64(),
}


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; an end that is `open` does not belong to it."""

    low: float
    high: float
    low_open: bool = False
    high_open: bool = False

    def holds(self, value: float) -> bool:
        """Whether a single number lies inside; NaN and the infinities never do."""
        return bool(self.mask(np.array([value]))[0])

    def mask(self, values: np.ndarray) -> np.ndarray:
        """Which of many numbers lie inside: float64 of any length to bool of the same length."""
        above = values > self.low if self.low_open else values >= self.low
        below = values < self.high if self.high_open else values <= self.high
        return above & below & np.isfinite(values)

    def __str__(self) -> str:
        return f"{'(' if self.low_open else '['}{self.low:g} … {self.high:g}{')' if self.high_open else ']'}"


POSITIVE = Range(0, np.inf, low_open=True)
FINITE = Range(-np.inf, np.inf)

# Bounds: FORMATS §3.
PRICE_BOUNDS = {
    "DDI": Range(10_000, 200_000),
    "DI1": Range(1_000, 100_000),
    "DOL": Range(500, 50_000),
    "WDO": Range(500, 50_000),
    "WIN": Range(10_000, 1_000_000),
    "IND": Range(10_000, 1_000_000),
}
PRICE_SOFT_BOUNDS = {
    "DDI": Range(40_000, 105_000),
    "DI1": Range(10_000, 100_000),
    "DOL": Range(3_000, 12_000),
}
WALL_BOUNDS = {"ES_SP500": Range(1_000, 20_000), "VIX": Range(5, 200)}
RATE = Range(-5, 100)
INDICATOR_BOUNDS = {
    "taxa_selic": RATE,
    "taxa_sofr": RATE,
    "taxa_cdi_cetip": RATE,
    "dolar_cupom_limpo": Range(0.5, 50),
    "dif_oper_casada": Range(-1_000, 1_000),
}
INDICATOR_SOFT_BOUNDS = {"taxa_selic": Range(2, 20)}
VOLATILITY = Range(0, 500, low_open=True, high_open=True)
VOLATILITY_SOFT = Range(5, 60)
DXY_CHANGE = Range(-10, 10, low_open=True, high_open=True)
DXY_SOFT = Range(-3, 3, low_open=True, high_open=True)


@dataclass(frozen=True)
class Bounds:
    """The numbers that a column may have: `every`, or what `by` says of the value of another column."""

    every: Range = FINITE
    by: Mapping[str, Range] = field(default_factory=dict)

    def of(self, which: str | None = None) -> Range:
        """The bounds of a number; `which` is the value of the other column."""
        return self.by.get(which or "", self.every)

    def __str__(self) -> str:
        return "; ".join([f"{which}: {r}" for which, r in self.by.items()] or [str(self.every)])


@dataclass(frozen=True)
class Column:
    """One column. A number outside `hard` is not stored, one outside `soft` is stored and named by a check.

    Bounds that depend on another column do so by the value of `bounds_by`, brought into their form by `bounds_as`. Two
    texts are the same value when they are equal, or when `canonical` makes them equal.
    """

    name: str
    type: QuestType
    description: str
    hard: Bounds | None = None
    soft: Bounds | None = None
    bounds_by: str | None = None
    bounds_as: Callable[[str], str] = str
    compared: bool = True
    canonical: Callable[[str], str] | None = None

    def bounds(self, which: str | None = None) -> Range:
        """The hard bounds of a number in this column; `which` is the value of the column `bounds_by`."""
        return self.hard.of(which) if self.hard else FINITE


@dataclass(frozen=True)
class Ascending:
    """Columns whose numbers do not fall from one to the next, where two of them are given."""

    columns: tuple[str, ...]
    hard: bool  # whether a row that breaks it is rejected, or stored and named by a check

    def __str__(self) -> str:
        return " ≤ ".join(self.columns)


@dataclass(frozen=True)
class Table:
    """One table. Every key column is part of DEDUP UPSERT KEYS; `timestamp` names the designated one.

    In a `revisable` table a later load's other value takes the place of the older; else the first one stands.
    `on_sessions`: a row whose local day is no session is stored and named by a check. After `retention_days` its
    partitions may be taken away, once an operator has said so (`b3 retention enable`), or from the start on where it
    `expires`; no rows of `outlives` are then left of their time.
    """

    name: str
    partition_by: Literal["DAY", "MONTH"]
    columns: tuple[Column, ...]
    keys: tuple[str, ...]
    description: str
    retention_days: int | None = None
    timestamp: str = "ts"
    ascending: tuple[Ascending, ...] = ()
    on_sessions: bool = False
    revisable: bool = True
    expires: bool = False
    outlives: str | None = None

    @property
    def has_feed(self) -> bool:
        """Whether its rows say which feed brought them and which load wrote them, as every market table's do."""
        return "feed" in self.keys

    @property
    def parsed(self) -> tuple[Column, ...]:
        """The columns that a parser gives: all but those that the load adds."""
        return tuple(c for c in self.columns if c.name not in ADDED_BY_LOAD)

    @property
    def values(self) -> tuple[Column, ...]:
        """What is compared when a key is met again: all columns but keys, `ingested_at` and `load_id`."""
        return tuple(c for c in self.columns if c.name not in self.keys and c.compared)

    def column(self, name: str) -> Column:
        return next(c for c in self.columns if c.name == name)

    def arrow_schema(self, columns: tuple[Column, ...] | None = None) -> pa.Schema:
        """The Arrow schema of the given columns (default: all of the table)."""
        return pa.schema([(c.name, ARROW_TYPES[c.type]) for c in columns or self.columns])


def canonical_json(text: str) -> str:
    """The same document in one layout; the order of the keys is kept, for the legacy contract has it.

    A text that is no JSON, or is nested too deeply to be read, stands for itself.
    """
    try:
        document = json.loads(text, parse_int=float)  # an int of 5 000 digits would be refused
        return json.dumps(document, separators=(",", ":"))
    except (ValueError, RecursionError):
        return text


ADDED_BY_LOAD = ("ingested_at", "feed", "load_id")
_LOADED = (
    Column("ingested_at", "TIMESTAMP", "when the row was written, UTC", compared=False),
    Column("feed", "SYMBOL", "what brought the row: legacy_csv, legacy_capture, b3_sprd, …"),
    Column("load_id", "LONG", "the load that wrote the row: see b3_loads", compared=False),
)
_TS = "when the desk could know the value, true UTC"


def _data(
    name: str,
    partition_by: Literal["DAY", "MONTH"],
    retention_days: int,
    keys: tuple[str, ...],
    description: str,
    *columns: Column,
    **more: Any,
) -> Table:
    """A market table: its own columns, then those that every load adds, `feed` as the last key."""
    return Table(name, partition_by, (*columns, *_LOADED), (*keys, "feed"), description, retention_days, **more)


def _price(name: str, description: str) -> Column:
    hard, soft = Bounds(POSITIVE, PRICE_BOUNDS), Bounds(by=PRICE_SOFT_BOUNDS)
    return Column(name, "DOUBLE", description, hard, soft, bounds_by="instrument")


def _wall(name: str, description: str) -> Column:
    return Column(name, "DOUBLE", description, Bounds(POSITIVE, WALL_BOUNDS), bounds_by="instrument")


def _indicator(description: str, bounds_by: str, bounds_as: Callable[[str], str] = str) -> Column:
    hard, soft = Bounds(by=INDICATOR_BOUNDS), Bounds(by=INDICATOR_SOFT_BOUNDS)
    return Column("value", "DOUBLE", description, hard, soft, bounds_by, bounds_as)


def _signal_price(name: str, description: str) -> Column:
    return Column(name, "DOUBLE", description, Bounds(POSITIVE))


def indicator_slug(label: str) -> str:
    """The short name of an indicator's label: `TAXA SELIC - (a.a.)` is taxa_selic, `DÓLAR CUPOM LIMPO` dolar_cupom_limpo."""
    plain = unicodedata.normalize("NFKD", label.partition(" - ")[0]).encode("ascii", "ignore").decode()
    return "_".join(plain.lower().split())


_SIGNAL = (
    Column("ts", "TIMESTAMP", "when the signal was sent, UTC"),
    Column("channel", "SYMBOL", "the Telegram channel"),
    Column("signal_type", "SYMBOL", "Swing Trade or Day Trade"),
    Column("asset", "SYMBOL", "the option or share, B3's ticker"),
    _signal_price("buy_min", "lowest price to buy at, BRL"),
    _signal_price("buy_max", "highest price to buy at, BRL"),
    _signal_price("target_1", "first target, BRL"),
    _signal_price("target_2", "second target, BRL"),
    _signal_price("target_final", "last target, BRL"),
    _signal_price("stop", "stop, BRL"),
    Column("raw_message", "VARCHAR", "the message as received"),
    Column("source", "SYMBOL", "what received it: ingestion, forwarder"),
)

TABLES: dict[str, Table] = {
    t.name: t
    for t in (
        _data(
            "b3_snapshots",
            "DAY",
            180,
            ("ts", "instrument", "contract_month"),
            "Front-contract prices of each morning capture",
            Column("ts", "TIMESTAMP", _TS),
            Column("coleta_data", "DATE", "the capture's own date, local"),
            Column("coleta_hora", "VARCHAR", "the capture's own time, local, HH:MM:SS"),
            Column("instrument", "SYMBOL", "DI1, DDI or DOL"),
            Column("contract_month", "SYMBOL", "contract month as its source writes it, X25"),
            _price("price_settlement", "settlement price, in the contract's points"),
            _price("price_settlement_prev", "previous settlement price, in the contract's points"),
            Column("status", "SYMBOL", "the capture's status"),
            Column("source", "SYMBOL", "the capture's source (`fonte`)"),
        ),
        _data(
            "b3_indicators",
            "DAY",
            180,
            ("ts", "name"),
            "Financial indicators of each capture, under the capture's own labels",
            Column("ts", "TIMESTAMP", _TS),
            Column("name", "SYMBOL", "the capture's label, verbatim"),
            _indicator("the value as a number", "name", indicator_slug),
            Column("display_value", "VARCHAR", "the value as the source wrote it, pt-BR"),
            Column("updated_at", "DATE", "the session that the value belongs to"),
        ),
        _data(
            "b3_vol_surface",
            "MONTH",
            730,
            ("ts", "contract_month", "delta_bucket"),
            "Implied volatility of dollar options by tenor and delta",
            Column("ts", "TIMESTAMP", _TS),
            Column("contract_month", "SYMBOL", "tenor as its source writes it, nov-25"),
            Column("delta_bucket", "SYMBOL", "call delta in percent: delta_1 … delta_99"),
            Column("volatility", "DOUBLE", "percent a year, base 252", Bounds(VOLATILITY), Bounds(VOLATILITY_SOFT)),
            Column("updated_at", "DATE", "the session that the surface belongs to"),
        ),
        _data(
            "b3_gamma_levels",
            "DAY",
            180,
            ("ts", "instrument"),
            "Gamma walls and flip of the S&P 500 future and the VIX",
            Column("ts", "TIMESTAMP", _TS),
            Column("instrument", "SYMBOL", "ES_SP500 or VIX"),
            _wall("call_wall", "strike of the largest call gamma, index points"),
            _wall("put_wall", "strike of the largest put gamma, index points"),
            _wall("gamma_flip", "level at which net gamma changes sign, index points"),
            Column("raw_payload", "VARCHAR", "the instrument's JSON object, verbatim", canonical=canonical_json),
            Column("status", "SYMBOL", "the capture's status"),
            ascending=(Ascending(("put_wall", "gamma_flip", "call_wall"), hard=False),),
        ),
        _data(
            "b3_adjustments",
            "MONTH",
            730,
            ("ts", "instrument", "contract_month"),
            "Settlement prices (ajustes) of futures",
            Column("ts", "TIMESTAMP", _TS),
            Column("instrument", "SYMBOL", "DI1, DDI, DOL, WDO, WIN or IND"),
            Column("contract_month", "SYMBOL", "contract month, X25"),
            _price("price_settlement", "settlement price, in the contract's points"),
            _price("price_prev", "previous settlement; for DI1 and DDI carried forward one day"),
            Column("status", "SYMBOL", "migrado or ajustado"),
            Column("trade_date", "DATE", "the session that the settlement belongs to"),
            Column("settlement_rate", "DOUBLE", "settlement as a rate, percent a year (DI1, DDI)"),
            Column("open_interest", "LONG", "open contracts", Bounds(Range(0, np.inf))),
        ),
        _data(
            "b3_indicators_daily",
            "MONTH",
            730,
            ("ts", "indicator"),
            "Financial indicators, one value a session",
            Column("ts", "TIMESTAMP", _TS),
            Column("indicator", "SYMBOL", "taxa_selic, taxa_sofr, taxa_cdi_cetip, dolar_cupom_limpo, …"),
            _indicator("percent a year, or BRL for dolar_cupom_limpo", "indicator"),
        ),
        _data(
            "b3_dxy_ticks",
            "MONTH",
            730,
            ("ts", "bucket"),
            "Change of the dollar index against its previous close, at fixed local times",
            Column("ts", "TIMESTAMP", _TS),
            Column("bucket", "SYMBOL", "the local time of the reading: dxy_08h50"),
            Column("value", "DOUBLE", "percent change, not a level", Bounds(DXY_CHANGE), Bounds(DXY_SOFT)),
            Column("status", "SYMBOL", "sucesso or falha"),
            Column("provider", "SYMBOL", "who gave the value"),
        ),
        _data(
            "b3_captures",
            "DAY",
            180,
            ("ts", "endpoint"),
            "Each capture's document as received: what the legacy endpoints answer from",
            Column("ts", "TIMESTAMP", _TS),
            Column("endpoint", "SYMBOL", "ultimo-dado or gamma"),
            Column("payload", "VARCHAR", "the document, as received", canonical=canonical_json),
            Column("sha256", "VARCHAR", "SHA-256 of the document as received, hex", compared=False),
            on_sessions=True,
        ),
        Table(
            "b3_loads",
            "MONTH",
            (
                Column("ts", "TIMESTAMP", "start of the load, UTC"),
                Column("load_id", "LONG", "identifies the load"),
                Column("run_id", "VARCHAR", "the Dagster run that it belonged to"),
                Column("table_name", "SYMBOL", "the table that it filled"),
                Column("feed", "SYMBOL", "the feed of its rows"),
                Column("file", "VARCHAR", "name of the file or archive entry"),
                Column("sha256", "VARCHAR", "SHA-256 of the payload, hex"),
                Column("candidates", "LONG", "records accounted for = loaded + rejected + duplicate + absent"),
                Column("loaded", "LONG", "records written, revised ones included"),
                Column("rejected", "LONG", "records in quarantine"),
                Column("duplicate", "LONG", "records that were there already, equal"),
                Column("absent", "LONG", "records whose value the source does not give"),
                Column("revised", "LONG", "loaded records that replaced another value: see b3_revisions"),
                Column("bytes", "LONG", "size of the payload"),
                Column("seconds", "DOUBLE", "how long the load took"),
                Column(
                    "outcome",
                    "SYMBOL",
                    "started (a process is at it, or died), partial (not all yet), loaded, rejected",
                ),
            ),
            ("ts", "load_id"),
            "Ledger of loads: one row for each payload into each table",
        ),
        Table(
            "b3_revisions",
            "MONTH",
            (
                Column("ts", "TIMESTAMP", "start of the load that changed the value, UTC"),
                Column("table_name", "SYMBOL", "the table"),
                Column("row_key", "VARCHAR", "the row's key values, joined by |"),
                Column("column_name", "SYMBOL", "the column that changed"),
                Column("old_value", "VARCHAR", "what stood before"),
                Column("new_value", "VARCHAR", "what stands since"),
                Column("load_id", "LONG", "the load that changed it"),
            ),
            ("ts", "table_name", "row_key", "column_name", "load_id"),
            "Ledger of revisions: values that a later load of the same feed changed",
        ),
        Table(
            "tp_capital_signals",
            "DAY",
            (*_SIGNAL, Column("ingested_at", "TIMESTAMP", "when the row was written, UTC", compared=False)),
            ("ts", "channel", "signal_type", "asset"),
            "Trading signals of TP-Capital's channels, deleted ones included",
            30,
            ascending=(Ascending(("buy_min", "buy_max"), hard=True),),
            revisable=False,
            expires=True,
        ),
        Table(
            "tp_capital_signals_deleted",
            "DAY",
            (
                *_SIGNAL,
                Column("ingested_at", "TIMESTAMP", "when the signal was written, UTC", compared=False),
                Column("deleted_at", "TIMESTAMP", "when it was deleted, UTC", compared=False),
            ),
            ("ts", "channel", "signal_type", "asset"),
            "Tombstones: signals that somebody has deleted, as they were",
            90,
            expires=True,
            outlives="tp_capital_signals",  # without its tombstone a deleted signal would be there again
        ),
        Table(
            "telegram_bots",
            "DAY",
            (
                Column("id", "SYMBOL", "the bot"),
                Column("username", "SYMBOL", "its name at Telegram, @…"),
                Column("token", "VARCHAR", "a reference; the secret itself lies encrypted in PostgreSQL"),
                Column("bot_type", "SYMBOL", "Forwarder or Sender"),
                Column("description", "VARCHAR", "what it is for"),
                Column("status", "SYMBOL", "active, inactive or deleted"),
                Column("created_at", "TIMESTAMP", "when the bot was entered, UTC"),
                Column("updated_at", "TIMESTAMP", "when this version of it began, UTC"),
            ),
            ("updated_at", "id"),
            "Telegram bots, a row a version; the current one is LATEST ON updated_at PARTITION BY id",
            timestamp="updated_at",
            revisable=False,
        ),
        Table(
            "telegram_channels",
            "DAY",
            (
                Column("id", "SYMBOL", "the channel"),
                Column("label", "SYMBOL", "its name"),
                Column("channel_id", "LONG", "its number at Telegram"),
                Column("channel_type", "SYMBOL", "source or destination"),
                Column("description", "VARCHAR", "what it is for"),
                Column("status", "SYMBOL", "active, inactive or deleted"),
                Column("signal_count", "LONG", "signals so far", Bounds(Range(0, np.inf))),
                Column("last_signal", "TIMESTAMP", "when the newest signal came, UTC"),
                Column("created_at", "TIMESTAMP", "when the channel was entered, UTC"),
                Column("updated_at", "TIMESTAMP", "when this version of it began, UTC"),
            ),
            ("updated_at", "id"),
            "Telegram channels, a row a version; the current one is LATEST ON updated_at PARTITION BY id",
            timestamp="updated_at",
            revisable=False,
        ),
    )
}
#: The eight market tables, which loads of legacy files, reports and live sources fill.
MARKET_TABLES: tuple[Table, ...] = tuple(t for t in TABLES.values() if t.has_feed)
#: The seven tables whose five counts `b3 migrate --json` reports.
REPORTED_TABLES: tuple[str, ...] = tuple(t.name for t in MARKET_TABLES if t.name != "b3_captures")
#: The ledgers of the loads themselves.
LEDGERS: tuple[Table, ...] = (TABLES["b3_loads"], TABLES["b3_revisions"])
#: TP-Capital's tables that an import fills.
TP_TABLES: tuple[Table, ...] = (TABLES["tp_capital_signals"], TABLES["telegram_bots"], TABLES["telegram_channels"])
#: What the raw archive can bring back: the market tables, and the signals that came in live.
ARCHIVED_TABLES: tuple[Table, ...] = (*MARKET_TABLES, TABLES["tp_capital_signals"])
