"""B3's financial indicators: a JSON list with the newest value of each, and the day that it is of.

Source of the format: `FORMATS.md` §4.
"""

from __future__ import annotations

import re
from datetime import datetime, time
from typing import BinaryIO

from b3_pipeline.parsing.gathering import Gathering, Row
from b3_pipeline.parsing.json_fields import Cell, Record, read_date, read_number, records
from b3_pipeline.parsing.json_text import Array, read_document
from b3_pipeline.parsing.records import Chunks, FileRejected, Reason
from b3_pipeline.sessions import to_utc
from b3_pipeline.tables import INDICATOR_BOUNDS, Table, indicator_slug

#: When the day's values are final: nobody could know them earlier (FORMATS §4).
FINAL = time(20)
#: What may stand behind a known indicator's name and is no other indicator.
_QUALIFIERS = ("", "COMPRA", "(A.A.)")


def parse_financial_indicators(stream: BinaryIO, table: Table) -> Chunks:
    """The indicators of a list, as one chunk for `b3_indicators_daily`.

    Raises `FileRejected` for what is no JSON list.
    """
    root = read_document(stream).root
    if not isinstance(root, Array):
        raise FileRejected("no list of indicators: the document is no JSON array")
    gathering = Gathering(table)
    for indicator in records([Cell("", place, item) for place, item in enumerate(root)], gathering):
        number = _number(indicator)
        gathering.candidate(number.pointer, indicator.text, _indicator, indicator, number, table)
    yield gathering.chunk()


def indicator_name(description: str) -> str:
    """The short name of a description: `TAXA SELIC` is taxa_selic, `DIF OPER CASADA - COMPRA` dif_oper_casada.

    A description of a known indicator with another qualifier (`- VENDA`) keeps it. Empty when it has no letter.
    """
    short = indicator_slug(description)
    if short in INDICATOR_BOUNDS and description.partition(" - ")[2].strip().upper() in _QUALIFIERS:
        return short
    # `partition` in indicator_slug would take two indicators for one
    return re.sub(r"[^a-z0-9]+", "_", indicator_slug(description.replace(" - ", " "))).strip("_")


def _number(indicator: Record) -> Cell:
    """The cell that is filled: some indicators have a value, others a rate."""
    value, rate = indicator.cell("value"), indicator.cell("rate")
    return rate if value.absent and not rate.absent else value


def _indicator(indicator: Record, number: Cell, table: Table) -> Row | None:
    updated = indicator.cell("lastUpdate")
    day = read_date(updated, "/")
    if day is None:
        raise updated.fault(Reason.BAD_DATE)
    if number.absent:
        return None
    if number.name == "value" and not indicator.cell("rate").absent:
        raise indicator.cell("rate").fault(Reason.FIELD_COUNT)  # which of the two counts is not said
    description = indicator.cell("description")
    name = indicator_name(description.as_text(Reason.BAD_TEXT))
    if not name:
        raise description.fault(Reason.BAD_TEXT)
    return {
        "ts": to_utc(datetime.combine(day, FINAL)),
        "indicator": name,
        "value": read_number(number, table.column("value").bounds(name)),
    }
