"""The legacy collector's morning capture, `ultimo_dado.json`, and what its other document shares with it.

Source of the format: `FORMATS.md` §3. A document fills several tables; a call of the parser extracts one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, TypeAlias

from b3_pipeline.parsing.gathering import Fault, Gathering, Row
from b3_pipeline.parsing.json_fields import (
    Cell,
    Record,
    checked_text,
    entries,
    read_date,
    read_hour,
    read_moment,
    read_month,
    read_number,
    read_text,
    records,
)
from b3_pipeline.parsing.json_text import Array, Document, Object, decode, read_document, text_of
from b3_pipeline.parsing.months import is_code, is_tenor
from b3_pipeline.parsing.records import Chunk, Chunks, FileRejected
from b3_pipeline.tables import Table, indicator_slug

INSTRUMENTS = ("DI1", "DDI", "DOL")
DELTAS = tuple(f"delta_{delta}" for delta in (1, 5, 10, 25, 37, 50, 63, 75, 90, 95, 99))


@dataclass(frozen=True)
class Capture:
    """A document of the collector: `body` is the object that says when it was captured and holds everything else."""

    document: Document
    endpoint: str
    body: Record

    def ts(self) -> datetime:
        """The capture's own time, naive UTC. Raises `Fault`: no record stands without it."""
        return read_moment(self.body.cell("timestamp"))


Extractor: TypeAlias = Callable[[Capture, Gathering], None]


def parse_capture(stream: BinaryIO, table: Table) -> Chunks:
    """The records of an `ultimo_dado.json` for one of `CAPTURE_TABLES`, in one chunk.

    Raises `FileRejected` for what is no such document.
    """
    yield gather(_capture(read_document(stream)), CAPTURE_TABLES, table)


def capture_moment(data: bytes) -> datetime | None:
    """When an `ultimo_dado.json` was captured by its own account, naive UTC; None when it does not say."""
    try:
        return _capture(decode(data)).ts()
    except (FileRejected, Fault):
        return None


def gather(capture: Capture, extractors: Mapping[str, Extractor], table: Table) -> Chunk:
    """The candidates that a document has for a table, as one chunk."""
    gathering = Gathering(table)
    extractors[table.name](capture, gathering)
    return gathering.chunk()


def _capture(document: Document) -> Capture:
    root = document.root
    if not isinstance(root, Object):
        raise FileRejected("not a capture: the document is no JSON object")
    if "gammalevels" in root:
        raise FileRejected("not a capture: the document holds gamma levels, which belong into gamma.json")
    return dated(Capture(document, "ultimo-dado", Record("", "", root)))


def dated(capture: Capture) -> Capture:
    """The capture as it is. Raises `FileRejected` when it does not even try to say when it was taken."""
    if "timestamp" not in capture.body.body:
        raise FileRejected(f"the document has no {capture.body.pointer}/timestamp: it does not say of when it is")
    return capture


def documents(capture: Capture, gathering: Gathering) -> None:
    """The document itself, for `b3_captures`."""
    gathering.candidate("", capture.document.text, _document, capture)


def _document(capture: Capture) -> Row:
    return {
        "ts": capture.ts(),
        "endpoint": capture.endpoint,
        "payload": capture.document.text,
        "sha256": capture.document.sha256,
    }


def _snapshots(capture: Capture, gathering: Gathering) -> None:
    blocks = (cell for cell in map(capture.body.cell, INSTRUMENTS) if cell.value is not None)
    for block in records(blocks, gathering):
        price = block.cell("preco_numerico")
        gathering.candidate(price.pointer, block.text, _snapshot, capture, block, price, gathering.table)


def _snapshot(capture: Capture, block: Record, price: Cell, table: Table) -> Row | None:
    when = {
        "ts": capture.ts(),
        "coleta_data": read_date(capture.body.cell("data_coleta"), "-"),
        "coleta_hora": read_hour(capture.body.cell("hora_coleta")),
    }
    if price.absent:
        return None
    previous_bounds = table.column("price_settlement_prev").bounds(block.name)
    return when | {
        "instrument": block.name,
        "contract_month": read_month(block.cell("vencimento"), is_code),
        "price_settlement": read_number(price, table.column("price_settlement").bounds(block.name)),
        "price_settlement_prev": read_number(block.cell("preco_anterior_numerico"), previous_bounds),
        "status": read_text(capture.body.cell("status")),
        "source": read_text(capture.body.cell("fonte")),
    }


def _indicators(capture: Capture, gathering: Gathering) -> None:
    labels = entries(capture.body.cell("indicadores_financeiros"), Object, gathering)
    for indicator in records(labels, gathering):
        value = indicator.cell("valor")
        gathering.candidate(value.pointer, indicator.text, _indicator, capture, indicator, value, gathering.table)


def _indicator(capture: Capture, indicator: Record, value: Cell, table: Table) -> Row | None:
    ts = capture.ts()
    if value.absent:
        return None
    return {
        "ts": ts,
        "name": checked_text(indicator.name, indicator.pointer),
        "value": read_number(value, table.column("value").bounds(indicator_slug(indicator.name))),
        "display_value": text_of(value.value).strip(),
        "updated_at": read_date(indicator.cell("data_atualizacao"), "/"),
    }


def _surface(capture: Capture, gathering: Gathering) -> None:
    tenors = entries(capture.body.cell("superficie_volatilidade"), Array, gathering)
    for tenor in records(tenors, gathering):
        for volatility in map(tenor.cell, DELTAS):
            gathering.candidate(
                volatility.pointer, tenor.text, _volatility, capture, tenor, volatility, gathering.table
            )


def _volatility(capture: Capture, tenor: Record, volatility: Cell, table: Table) -> Row | None:
    ts = capture.ts()
    if volatility.absent:
        return None
    return {
        "ts": ts,
        "contract_month": read_month(tenor.cell("mes"), is_tenor),
        "delta_bucket": volatility.name,
        "volatility": read_number(volatility, table.column("volatility").bounds()),
        "updated_at": read_date(tenor.cell("data_atualizacao"), "/"),
    }


#: What each table takes out of a capture.
CAPTURE_TABLES: Mapping[str, Extractor] = {
    "b3_snapshots": _snapshots,
    "b3_indicators": _indicators,
    "b3_vol_surface": _surface,
    "b3_captures": documents,
}
