"""The gamma levels of the legacy collector, `gamma.json`: walls and flip of each instrument.

Source of the format: `FORMATS.md` §3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

from b3_pipeline.parsing.capture import Capture, Extractor, dated, documents, gather
from b3_pipeline.parsing.gathering import Gathering, Row
from b3_pipeline.parsing.json_fields import Cell, Record, checked_text, read_number, read_text, records
from b3_pipeline.parsing.json_text import Document, Object, child, read_document
from b3_pipeline.parsing.records import Chunks, FileRejected
from b3_pipeline.tables import Table

INSTRUMENTS = ("ES_SP500", "VIX")
WALLS = ("call_wall", "put_wall", "gamma_flip")
_BLOCK = "gammalevels"
_HEADER = ("timestamp", "status")


def parse_gamma(stream: BinaryIO, table: Table) -> Chunks:
    """The records of a `gamma.json` for one of `GAMMA_TABLES`, in one chunk.

    Raises `FileRejected` for what is no such document.
    """
    yield gather(_gamma(read_document(stream)), GAMMA_TABLES, table)


def _gamma(document: Document) -> Capture:
    root = document.root
    body = root.get(_BLOCK) if isinstance(root, Object) else None
    if not isinstance(body, Object):
        raise FileRejected(f"not gamma levels: the document has no object {_BLOCK!r}")
    return dated(Capture(document, "gamma", Record(_BLOCK, child("", _BLOCK), body)))


def _levels(capture: Capture, gathering: Gathering) -> None:
    for instrument in records(_instruments(capture.body), gathering):
        gathering.candidate(instrument.pointer, instrument.text, _level, capture, instrument, gathering.table)


def _instruments(body: Record) -> list[Cell]:
    """Every object, under whatever name; and the two that must be objects, unless they are null."""
    cells = (body.cell(name) for name in body.body if name not in _HEADER)
    return [
        cell
        for cell in cells
        if isinstance(cell.value, Object) or (cell.name in INSTRUMENTS and cell.value is not None)
    ]


def _level(capture: Capture, instrument: Record, table: Table) -> Row | None:
    ts = capture.ts()
    walls = {wall: instrument.cell(wall) for wall in WALLS}
    if all(cell.absent for cell in walls.values()):
        return None
    levels = {wall: read_number(cell, table.column(wall).bounds(instrument.name)) for wall, cell in walls.items()}
    return levels | {
        "ts": ts,
        "instrument": checked_text(instrument.name, instrument.pointer),
        "raw_payload": instrument.text,
        "status": read_text(capture.body.cell("status")),
    }


#: What each table takes out of a document of gamma levels.
GAMMA_TABLES: Mapping[str, Extractor] = {"b3_gamma_levels": _levels, "b3_captures": documents}
