"""The kinds of payload: which parser reads it, under which feed, into which tables (FORMATS §3, §4, §6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, time
from typing import BinaryIO

from b3_pipeline.parsing.capture import CAPTURE_TABLES, capture_moment, parse_capture
from b3_pipeline.parsing.dxy_chart import LAST, parse_dxy_chart
from b3_pipeline.parsing.financial_indicators import parse_financial_indicators
from b3_pipeline.parsing.gamma import GAMMA_TABLES, parse_gamma
from b3_pipeline.parsing.legacy_csv import ADJUSTMENTS, DXY, INDICATORS, SURFACE, CsvSpec, parse_csv
from b3_pipeline.parsing.records import Chunks
from b3_pipeline.parsing.settlement_report import parse_settlement_report
from b3_pipeline.parsing.tp_capital import parse_lines, parse_list, read_list, unused
from b3_pipeline.parsing.vol_surface_xlsx import parse_surface, read_surface
from b3_pipeline.settings import Settings
from b3_pipeline.tables import Table


@dataclass(frozen=True)
class Parsing:
    """A payload that is being parsed for one table: its chunks, to be read once, and the columns that are not used."""

    chunks: Chunks
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """One kind of payload. `parse(stream, table)` reads it for one of its `tables`; it may raise FileRejected."""

    name: str  # the upstream asset's name
    file: str  # what a file of this kind is called
    what: str  # for messages
    feed: str
    tables: tuple[str, ...]
    parse: Callable[[BinaryIO, Table], Parsing]
    whole: bool = False  # read into memory as one; otherwise streamed, at any size
    limit: int = 8 << 20  # bytes that one that is read whole may have; a capture has 2 KB, a settlement report 70 KB
    # The member of its records that nobody may see; "": none, but tokens may stand in any text. Where it is not None,
    # a payload is sealed before anything reads it.
    secret: str | None = None
    history: str | None = None  # pattern of older ones in `historico/`
    moment: Callable[[bytes], datetime | None] | None = None  # when one was captured, naive UTC


def _csv(spec: CsvSpec, what: str) -> Kind:
    def parse(stream: BinaryIO, _table: Table) -> Parsing:
        parsed = parse_csv(spec, stream)
        return Parsing(iter(parsed), parsed.ignored_columns)

    return Kind(spec.file.removesuffix(".csv"), spec.file, what, "legacy_csv", (spec.table.name,), parse)


def _document(parser: Callable[[BinaryIO, Table], Chunks]) -> Callable[[BinaryIO, Table], Parsing]:
    return lambda stream, table: Parsing(parser(stream, table))


def _list(file: str, what: str, table: str, limit: int = 8 << 20, secret: str = "") -> Kind:
    def parse(stream: BinaryIO, table: Table) -> Parsing:
        document = read_list(stream)
        return Parsing(parse_list(document, table), unused(document, table))

    name = file.removesuffix(".json")
    return Kind(name, file, what, "tp_capital", (table,), parse, whole=True, limit=limit, secret=secret)


def _surface(stream: BinaryIO, table: Table) -> Parsing:
    surface = read_surface(stream)
    return Parsing(parse_surface(surface, table), surface.ignored)


CAPTURE = Kind(
    "ultimo_dado",
    "ultimo_dado.json",
    "a capture of the desk's morning data",
    "legacy_capture",
    tuple(CAPTURE_TABLES),
    _document(parse_capture),
    whole=True,
    history="ultimo_dado_*.json",
    moment=capture_moment,
)
GAMMA = Kind(
    "gamma",
    "gamma.json",
    "the newest gamma levels",
    "legacy_capture",
    tuple(GAMMA_TABLES),
    _document(parse_gamma),
    whole=True,
)
#: The six files of a legacy folder, in the order in which they are taken.
LEGACY_KINDS: tuple[Kind, ...] = (
    _csv(ADJUSTMENTS, "settlement prices, a row a morning"),
    _csv(INDICATORS, "financial indicators, a row a morning"),
    _csv(SURFACE, "the volatility surface, a row a tenor and day"),
    _csv(DXY, "the dollar index's change, a row a day"),
    CAPTURE,
    GAMMA,
)
REPORT = Kind(
    "settlement_report",
    "SPRDyymmdd.zip",
    "B3's price report with the settlement prices (BVBG.187)",
    "b3_sprd",
    ("b3_adjustments",),
    _document(parse_settlement_report),
    whole=True,
)
FINANCIAL_INDICATORS = Kind(
    "financial_indicators",
    "financial_indicators.json",
    "B3's financial indicators, the newest value of each",
    "b3_indicators",
    ("b3_indicators_daily",),
    _document(parse_financial_indicators),
    whole=True,
)
VOL_SURFACE = Kind(
    "vol_surface",
    "Superficie-de-volatilidade-de-dolar.zip",
    "B3's volatility surface of dollar options, the newest",
    "b3_vol_xlsx",
    ("b3_vol_surface",),
    _surface,
    whole=True,
)


def dxy_chart(last: time = LAST) -> Kind:
    """The kind of Yahoo's charts, read until that local time."""
    return Kind(
        "dxy_chart",
        "dxy_chart.json",
        "Yahoo's chart of the dollar index, the day so far",
        "yahoo_dxy",
        ("b3_dxy_ticks",),
        _document(lambda stream, table: parse_dxy_chart(stream, table, last)),
        whole=True,
    )


DXY_CHART = dxy_chart(Settings().dxy_until)
GAMMA_LEVELS = replace(
    GAMMA, name="gamma_levels", file="gamma_levels.json", what="the provider's newest gamma levels", feed="gammalevels"
)
#: What is composed of other feeds re-states no surface: nothing is stamped with another time than its own.
COMPOSED = replace(
    CAPTURE,
    name="composed_capture",
    file="composed_capture.json",
    what="a capture composed of the newest stored values",
    feed="composed",
    tables=tuple(table for table in CAPTURE_TABLES if table != "b3_vol_surface"),
    history=None,
)
#: What the collector brings in by itself, beside the legacy files.
LIVE_KINDS: tuple[Kind, ...] = (REPORT, FINANCIAL_INDICATORS, VOL_SURFACE, DXY_CHART, GAMMA_LEVELS, COMPOSED)
#: Everything that fills the market tables.
MARKET_KINDS: tuple[Kind, ...] = (*LEGACY_KINDS, *LIVE_KINDS)
#: TP-Capital's three exports. Ten years of signals are some 15 MiB.
TP_KINDS: tuple[Kind, ...] = (
    _list("tp_capital_signals.json", "trading signals of TP-Capital's channels", "tp_capital_signals", limit=64 << 20),
    _list("telegram_bots.json", "the Telegram bots, with their tokens", "telegram_bots", secret="token"),
    _list("telegram_channels.json", "the Telegram channels", "telegram_channels"),
)
#: Signals as they come in live, a line each: out of the inbox, or through the API. They were sealed before they were archived.
SIGNALS = Kind(
    "tp_capital",
    "signals.jsonl",
    "signals of TP-Capital's bots, a line each",
    "tp_capital_live",
    ("tp_capital_signals",),
    _document(parse_lines),
    whole=True,
)
#: Everything that comes into the raw archive.
ARCHIVED_KINDS: tuple[Kind, ...] = (*MARKET_KINDS, SIGNALS)
