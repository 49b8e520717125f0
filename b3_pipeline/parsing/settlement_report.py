"""B3's price report, simplified, for derivatives (BVBG.187, `SPRDyymmdd.zip`): the settlements of the day.

Source of the format: `FORMATS.md` §4, real files of 2023 and 2026. ISO 20022 XML: a header that announces what the
report is and how many messages it has, then one `PricRpt` for each instrument.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, time
from typing import BinaryIO
from xml.etree.ElementTree import Element

from defusedxml.common import DTDForbidden
from defusedxml.ElementTree import ParseError, iterparse, tostring

from b3_pipeline.parsing.archive_zip import report_xml
from b3_pipeline.parsing.gathering import Fault, Gathering, Row, parse_cell, within
from b3_pipeline.parsing.numbers import parse_number
from b3_pipeline.parsing.records import Chunks, FileRejected, Reason
from b3_pipeline.parsing.times import parse_iso_date
from b3_pipeline.sessions import to_utc
from b3_pipeline.tables import Range, Table

#: When the report is out: nobody could know a settlement earlier (FORMATS §4).
PUBLISHED = time(19, 30)
STATUS = "ajustado"
_REPORT = "BVBG.187"
_FUTURE = re.compile(r"(DI1|DDI|DOL|WDO|WIN|IND)([FGHJKMNQUVXZ][0-9]{2})")
_PRICE, _TICKER, _DATE = "FinInstrmAttrbts/AdjstdQt", "SctyId/TckrSymb", "TradDt/Dt"
_PREVIOUS, _RATE = "FinInstrmAttrbts/PrvsAdjstdQt", "FinInstrmAttrbts/AdjstdQtTax"
_OPEN_INTEREST = "FinInstrmAttrbts/OpnIntrst"
# A PricRpt has some thirty elements, fifteen levels deep; a bomb has any number.
_MAX_ELEMENTS, _MAX_DEPTH = 1_000, 50
_HTML = "an HTML page instead of a report: B3 answers so when it has none, or is busy; fetch it again"
# Above it a float64 no longer tells one whole number from the next.
_EXACT = 2.0**53


def parse_settlement_report(stream: BinaryIO, table: Table) -> Chunks:
    """The futures' settlements of a report (zip, zip in a zip, or XML; seekable), as one chunk for `b3_adjustments`.

    Candidates are DI1, DDI, DOL, WDO, WIN and IND futures of every expiry; options and other instruments are none.
    Raises `FileRejected`, before the chunk, for what is not a whole BVBG.187 report.
    """
    gathering = Gathering(table)
    with report_xml(stream) as xml:
        for report in _price_reports(xml):
            future = _FUTURE.fullmatch(_text(report, _TICKER))
            if future:
                instrument, contract_month = future.groups()
                gathering.candidate(_PRICE, _fragment(report), _settlement, report, instrument, contract_month, table)
    yield gathering.chunk()


def _settlement(report: Element, instrument: str, contract_month: str, table: Table) -> Row | None:
    day = parse_cell(parse_iso_date, _DATE, _text(report, _DATE))
    settlement = _number(report, _PRICE, table.column("price_settlement").bounds(instrument))
    if settlement is None:
        return None
    return {
        "ts": to_utc(datetime.combine(day, PUBLISHED)),
        "instrument": instrument,
        "contract_month": contract_month,
        "price_settlement": settlement,
        "price_prev": _number(report, _PREVIOUS, table.column("price_prev").bounds(instrument)),
        "status": STATUS,
        "trade_date": day,
        "settlement_rate": _number(report, _RATE, table.column("settlement_rate").bounds()),
        "open_interest": _count(report, _OPEN_INTEREST, table.column("open_interest").bounds()),
    }


def _number(report: Element, path: str, bounds: Range) -> float | None:
    text = _text(report, path)
    return within(bounds, parse_cell(parse_number, path, text), path, text)


def _count(report: Element, path: str, bounds: Range) -> int | None:
    number = _number(report, path, Range(bounds.low, min(bounds.high, _EXACT)))
    if number is None:
        return None
    if not number.is_integer():
        raise Fault(Reason.BAD_NUMBER, path, _text(report, path))
    return int(number)


def _price_reports(xml: BinaryIO) -> Iterator[Element]:
    """Each PricRpt, without namespaces, of a report that is what it should be, and whole; one is alive at a time."""
    header: dict[str, str] = {}
    count = 0
    for element in _elements(xml):
        if element.tag == "PricRpt":
            count += 1
            _check_header(header)
            yield element
        elif element.tag in ("BizGrpTp", "TtlNbOfMsg"):
            header[element.tag] = (element.text or "").strip()
    _check_header(header)
    if count != int(header["TtlNbOfMsg"]):
        raise FileRejected(f"the report announces {header['TtlNbOfMsg']} instruments and has {count}: it is not whole")


def _check_header(header: dict[str, str]) -> None:
    kind, total = header.get("BizGrpTp"), header.get("TtlNbOfMsg", "")
    if kind is None:
        raise FileRejected(f"no report of B3's: the XML does not say that it is {_REPORT} (BizGrpTp)")
    if kind.split(".")[:2] != _REPORT.split("."):
        raise FileRejected(f"another report: {kind[:60]!r} instead of {_REPORT} (SPRDyymmdd.zip)")
    if not re.fullmatch(r"[0-9]{1,9}", total):
        raise FileRejected(f"the report does not announce how many instruments it has (TtlNbOfMsg is {total[:60]!r})")


def _elements(xml: BinaryIO) -> Iterator[Element]:
    """Every element at its end, without its namespace, and taken out of its parent afterwards.

    Only what is inside a PricRpt stays in it and is not given by itself. Raises `FileRejected` for what is no XML,
    has a DTD, is no `Document`, or is made to fill the memory.
    """
    path: list[Element] = []
    inside = 0  # elements of the PricRpt that is being read
    for event, element in _events(xml):
        if event == "start":
            path.append(element)
            inside += 1 if inside or _local(element) == "PricRpt" else 0
            _check_shape(path, inside)
            continue
        path.pop()
        element.tag = _local(element)
        if inside and element.tag != "PricRpt":
            continue
        inside = 0
        yield element
        if path:
            path[-1].remove(element)


def _events(xml: BinaryIO) -> Iterator[tuple[str, Element]]:
    try:
        yield from iterparse(xml, ("start", "end"), forbid_dtd=True)
    except DTDForbidden as error:
        raise FileRejected(
            _HTML if error.name.lower() == "html" else "the XML has a DTD: B3's reports do not"
        ) from None
    # an encoding that Python does not know is a LookupError, one that expat does not, a ValueError
    except (ParseError, LookupError, ValueError) as error:
        raise FileRejected(f"neither a zip nor whole XML: {error}") from None


def _check_shape(path: list[Element], inside: int) -> None:
    if len(path) == 1 and _local(path[0]) != "Document":
        root = _local(path[0])[:60]
        raise FileRejected(_HTML if root.lower() == "html" else f"no report of B3's: the XML is a {root!r}")
    if len(path) > _MAX_DEPTH or inside > _MAX_ELEMENTS:
        raise FileRejected("the XML nests deeper or holds more in one instrument than any report does")


def _local(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(report: Element, path: str) -> str:
    return (report.findtext(path) or "").strip()


def _fragment(report: Element) -> str:
    report.tail = None
    return tostring(report, encoding="unicode")
