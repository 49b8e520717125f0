"""Whether an answer is what it claims to be, each source's in its own way: what is not is refused before it is kept.

Our own parsers are the judges: what they cannot read as a whole is not archived as data. Each function gives the session
that the payload is of; it raises `Refused`, and `NotYet` for what a source sends while it has nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import TypeVar

from b3_pipeline.parsing.archive_zip import verify_zip, zipped_file
from b3_pipeline.parsing.dxy_chart import read_chart
from b3_pipeline.parsing.kinds import CAPTURE, FINANCIAL_INDICATORS, GAMMA, GAMMA_LEVELS, REPORT, Kind
from b3_pipeline.parsing.records import Chunk, FileRejected
from b3_pipeline.parsing.vol_surface_xlsx import read_surface
from b3_pipeline.sessions import to_local
from b3_pipeline.sources.fetching import Asked, NotYet, Refused
from b3_pipeline.tables import TABLES

T = TypeVar("T")

#: A zip that is smaller holds no report: B3 answers so for a day of which it has none.
_TINY = 1 << 10
_MAX_UNPACKED = 64 << 20


def settlements(data: bytes, asked: Asked) -> date:
    """B3's price report: whole, with futures of one day, which is the session asked for."""
    _require_something(data, ".xml", "the price report")
    days = set(_chunk(REPORT, "b3_adjustments", data).records["trade_date"].to_pylist())
    if len(days) != 1:
        raise Refused(f"No price report: it has futures of {len(days)} days.", data)
    return _of_session(days.pop(), asked, "the price report", data)


def indicators(data: bytes) -> date:
    """B3's financial indicators: a list with values; each has its own day, the newest of them is the session."""
    days = _days(_chunk(FINANCIAL_INDICATORS, "b3_indicators_daily", data))
    if not days:
        raise Refused("No financial indicators: not one of them has a value and a date.", data)
    return max(days)


def vol_surface(data: bytes, asked: Asked) -> date:
    """B3's volatility surface: a whole workbook whose reference date is the session asked for."""
    _require_something(data, ".xlsx", "the volatility surface")
    surface = _read(lambda: read_surface(io.BytesIO(data)), "the volatility surface", data)
    if not surface.maturities:
        raise Refused("No volatility surface: all of it is zero.", data)
    return _of_session(surface.day, asked, "the volatility surface", data)


def dxy(data: bytes) -> date:
    """Yahoo's chart of the dollar index with prices; its session is the local day of the newest."""
    return _read(lambda: read_chart(io.BytesIO(data)), "Yahoo's chart", data).day


def gamma(data: bytes) -> date:
    """A block of gamma levels that says of when it is; its session is that local day."""
    days = _days(_chunk(GAMMA_LEVELS, "b3_captures", data))
    if not days:
        raise Refused("No gamma levels: they do not say of when they are.", data)
    return max(days)


def legacy_gamma(data: bytes) -> date | None:
    """The legacy collector's gamma levels: whatever it wrote is kept, as long as it is a whole document."""
    return max(_days(_chunk(GAMMA, "b3_captures", data)), default=None)


def legacy_capture(data: bytes) -> date | None:
    """The legacy collector's capture: whatever it wrote is kept, as long as it is a whole document."""
    return max(_days(_chunk(CAPTURE, "b3_captures", data)), default=None)


def _chunk(kind: Kind, table: str, data: bytes) -> Chunk:
    """What a kind's parser makes of the data for one of its tables."""
    (chunk,) = _read(lambda: list(kind.parse(io.BytesIO(data), TABLES[table]).chunks), kind.what, data)
    return chunk


def _read(read: Callable[[], T], what: str, data: bytes) -> T:
    if data[:1_000].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html")):
        raise Refused(f"An HTML page instead of {what}.", data)
    with _refusing(what, data):
        return read()


@contextmanager
def _refusing(what: str, data: bytes) -> Iterator[None]:
    try:
        yield
    except FileRejected as error:
        raise Refused(f"Not {what}: {error}.", data) from None


def _require_something(data: bytes, suffix: str, what: str) -> None:
    """Raises `NotYet` for a small zip that is whole and has no file with that suffix."""
    if len(data) >= _TINY or not data.startswith(b"PK"):
        return
    with _refusing(what, data):
        verify_zip(io.BytesIO(data), _MAX_UNPACKED)
    try:
        with zipped_file(io.BytesIO(data), suffix):
            return
    except FileRejected:
        raise NotYet(f"{what[0].upper()}{what[1:]} is not there yet: the zip has nothing in it.") from None


def _days(chunk: Chunk) -> list[date]:
    """The local days of a chunk's records."""
    return [to_local(ts).date() for ts in chunk.records["ts"].to_pylist()]


def _of_session(day: date, asked: Asked, what: str, data: bytes) -> date:
    """The day. Raises `NotYet` for an older one than is asked for, when that is not due yet, else `Refused`."""
    if day == asked.session:
        return day
    problem = f"{what[0].upper()}{what[1:]} is of {day}, not of {asked.session}"
    if day < asked.session and not asked.overdue:
        raise NotYet(f"{problem}, which is not out yet.")
    raise Refused(f"{problem}.", data)
