"""Yahoo's chart of the dollar index: prices in bars, from which come the percent changes at fixed local times.

Source of the format: `FORMATS.md` §4. A bar's `close` is the price at the bar's end, not at the time it is listed under:
taking it there would let a reader see five minutes ahead, and its value would change until the bar is over.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import BinaryIO

from b3_pipeline.parsing.gathering import Gathering, Row, within
from b3_pipeline.parsing.json_fields import Cell, read_number
from b3_pipeline.parsing.json_text import Array, Json, Number, Object, read_document, text_of
from b3_pipeline.parsing.records import Chunks, FileRejected
from b3_pipeline.parsing.times import FIRST_YEAR, LAST_YEAR
from b3_pipeline.sessions import to_local, to_utc
from b3_pipeline.tables import POSITIVE, Table

SYMBOL = "DX-Y.NYB"
PROVIDER = "yahoo"
STATUS = "sucesso"
#: The local times of the readings: from `FIRST` every `EVERY`, by default until `LAST`.
FIRST, LAST = time(8, 50), time(18, 30)
EVERY = timedelta(minutes=5)
_RESULT = "/chart/result/0"
_CLOSES = f"{_RESULT}/indicators/quote/0/close"
_PREVIOUS = ("chartPreviousClose", "previousClose")
_GRANULARITY = re.compile(r"([1-9][0-9]?)([mh])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1)}
_INTEGER = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True)
class Chart:
    """A chart: the previous close, and each bar's end (naive UTC, ascending) with the cell of its price.

    `newest` is the last time (naive UTC) that the chart knows of: what ended by then is final.
    """

    previous: float
    newest: datetime
    ends: list[datetime]
    closes: list[Cell]

    @property
    def day(self) -> date:
        """The local day of its newest price."""
        return to_local(self.newest).date()


def parse_dxy_chart(stream: BinaryIO, table: Table, last: time = LAST) -> Chunks:
    """The changes of a chart's newest day at each bucket that is over, as one chunk for `b3_dxy_ticks`.

    A bucket has the price of the last bar that ended at its time or less than `EVERY` before; without one it is absent,
    for nothing is carried forward. Raises `FileRejected` for what is no chart of the index with prices.
    """
    chart = read_chart(stream)
    gathering = Gathering(table)
    for moment in _moments(chart, last):
        close = _close(chart, to_utc(moment))
        bucket = f"dxy_{moment:%Hh%M}"
        pointer = close.pointer if close else _CLOSES
        gathering.candidate(pointer, _text(chart, bucket, close), _tick, chart, moment, bucket, close, table)
    yield gathering.chunk()


def read_chart(stream: BinaryIO) -> Chart:
    """The chart in a stream of JSON. Raises `FileRejected` for an error, another symbol, or a chart without prices."""
    root = Cell("", "", read_document(stream).root)
    chart = _member(root, "chart")
    if isinstance(error := _member(chart, "error").value, Object):
        told = ": ".join(text_of(error[name])[:200] for name in ("code", "description") if name in error)
        raise FileRejected(f"Yahoo answers with an error instead of a chart: {told}")
    result = _first(_member(chart, "result"))
    meta = _member(result, "meta")
    symbol = _member(meta, "symbol").value
    if symbol != SYMBOL:
        raise FileRejected(f"no chart of {SYMBOL}: its symbol is {text_of(symbol)[:60]!r}")
    closes = _member(_first(_member(_member(result, "indicators"), "quote")), "close").value
    starts = _member(result, "timestamp").value
    if not isinstance(starts, Array) or not isinstance(closes, Array) or not starts:
        raise FileRejected(f"the chart of {SYMBOL} has no prices")
    if len(starts) != len(closes):
        raise FileRejected(f"the chart has {len(starts)} times and {len(closes)} prices: which belong together?")
    length = _length(_member(meta, "dataGranularity").value)
    bars = sorted(((_moment(start), place) for place, start in enumerate(starts)), key=lambda bar: bar[0])
    return Chart(
        _previous(meta),
        bars[-1][0],
        [start + length for start, _ in bars],
        [Cell(_CLOSES, place, closes[place]) for _, place in bars],
    )


def _moments(chart: Chart, last: time) -> Iterator[datetime]:
    """The buckets (naive local) of the chart's day that are over."""
    newest = to_local(chart.newest)
    moment, end = datetime.combine(chart.day, FIRST), datetime.combine(chart.day, last)
    while moment <= min(newest, end):
        yield moment
        moment += EVERY


def _close(chart: Chart, moment: datetime) -> Cell | None:
    """The price of the last bar with one that ended at the moment (naive UTC), or less than `EVERY` before."""
    place = bisect_right(chart.ends, moment) - 1
    while place >= 0 and chart.ends[place] > moment - EVERY:
        if not chart.closes[place].absent:
            return chart.closes[place]
        place -= 1
    return None


def _tick(chart: Chart, moment: datetime, bucket: str, close: Cell | None, table: Table) -> Row | None:
    price = None if close is None else read_number(close, POSITIVE)
    if close is None or price is None:
        return None
    change = (price / chart.previous - 1) * 100
    return {
        "ts": to_utc(moment),
        "bucket": bucket,
        "value": within(table.column("value").bounds(), change, close.pointer, text_of(close.value)),
        "status": STATUS,
        "provider": PROVIDER,
    }


def _text(chart: Chart, bucket: str, close: Cell | None) -> str:
    """What a reading is made of, as JSON."""
    price = "null" if close is None else text_of(close.value)
    return f'{{"bucket": "{bucket}", "close": {price}, "previousClose": {chart.previous!r}}}'


def _previous(meta: Cell) -> float:
    for name in _PREVIOUS:
        cell = _member(meta, name)
        if isinstance(cell.value, Number) and POSITIVE.holds(number := float(cell.value)):
            return number
    raise FileRejected(f"the chart has no previous close ({' or '.join(_PREVIOUS)}): no change can be told")


def _length(granularity: Json) -> timedelta:
    """How long a bar is: `5m`, `1h`. Raises `FileRejected` for days and more."""
    match = _GRANULARITY.fullmatch(granularity) if isinstance(granularity, str) else None
    if not match:
        raise FileRejected(f"the chart's bars are {text_of(granularity)[:20]!r} long (dataGranularity), not 5m")
    return int(match[1]) * _UNITS[match[2]]


def _moment(start: Json) -> datetime:
    """Seconds since 1970 as naive UTC."""
    if not isinstance(start, Number) or not _INTEGER.fullmatch(start):
        raise FileRejected(f"{text_of(start)[:40]!r} among the chart's times are no seconds since 1970")
    moment = datetime.fromtimestamp(int(start), UTC).replace(tzinfo=None)
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise FileRejected(f"a time of the chart is of the year {moment.year}")
    return moment


def _member(cell: Cell, name: str) -> Cell:
    """A member of an object; of anything else it is missing."""
    value = cell.value
    return Cell(cell.pointer, name, value.get(name) if isinstance(value, Object) else None)


def _first(cell: Cell) -> Cell:
    value = cell.value
    return Cell(cell.pointer, 0, value[0] if isinstance(value, Array) and value else None)
