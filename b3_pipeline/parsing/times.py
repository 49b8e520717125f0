"""Dates and times as the sources write them, for one text and for columns: exactly the digits of each form.

Everything is local (Brasília) time without a zone; `b3_pipeline.sessions` turns it into UTC.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, time
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from b3_pipeline.parsing.numbers import to_numpy
from b3_pipeline.sessions import to_local

#: `-` for the dd-mm-yyyy of CSV files, `/` for the dd/mm/yyyy of `data_atualizacao` (FORMATS §1).
DateMark = Literal["-", "/"]
# Designated timestamps begin in 1970 (UTC) and nanosecond calendars end in 2262.
FIRST_YEAR, LAST_YEAR = 1971, 2261

_DATES = {mark: re.compile(rf"([0-9]{{2}}){mark}([0-9]{{2}}){mark}([0-9]{{4}})") for mark in ("-", "/")}
_TIME = re.compile(r"[0-9]{2}:[0-9]{2}(?::[0-9]{2})?")
_TIMESTAMP = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[T ]"
    r"(?P<time>[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?)(?P<zone>Z|[+-][0-9]{2}:?[0-9]{2})?"
)


class BadDate(ValueError):
    """A text that is no date of the form expected, or of a year that no table can hold."""


class BadTime(ValueError):
    """A text that is no time of day."""


def parse_date(text: str, mark: DateMark) -> date:
    """The date of a dd-mm-yyyy or dd/mm/yyyy text, by its mark; surrounding white space does not count.

    Raises `BadDate`, also for years before 1971 and after 2261.
    """
    match = _DATES[mark].fullmatch(text.strip())
    if not match:
        raise BadDate(f"{text!r} is no dd{mark}mm{mark}yyyy")
    day, month, year = map(int, match.groups())
    try:
        return _in_range(date(year, month, day))
    except ValueError as error:
        raise BadDate(f"{text!r} is no date: {error}") from None


def parse_iso_date(text: str) -> date:
    """The date of a yyyy-mm-dd text; surrounding white space does not count. Raises `BadDate`, as `parse_date`."""
    trimmed = text.strip()
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", trimmed):
        raise BadDate(f"{text!r} is no yyyy-mm-dd")
    try:
        return _in_range(date.fromisoformat(trimmed))
    except ValueError as error:
        raise BadDate(f"{text!r} is no date: {error}") from None


def parse_time(text: str) -> time:
    """The time of an HH:MM:SS or HH:MM text; surrounding white space does not count. Raises `BadTime`."""
    trimmed = text.strip()
    if not _TIME.fullmatch(trimmed):
        raise BadTime(f"{text!r} is no HH:MM:SS")
    try:
        return time.fromisoformat(trimmed)
    except ValueError as error:
        raise BadTime(f"{text!r} is no time: {error}") from None


def parse_timestamp(text: str) -> datetime:
    """The naive local time of an ISO 8601 text (`2025-10-10T09:34:30`, `… 09:34`, fractions, Z or an offset).

    Without a zone it is local already; with one it is turned into local time; digits below a microsecond are
    dropped. Raises `BadDate` for another form or an impossible date, `BadTime` for an impossible time or zone.
    """
    match = _TIMESTAMP.fullmatch(text.strip())
    if not match:
        raise BadDate(f"{text!r} is no ISO 8601 timestamp")
    day = parse_iso_date(match["date"])
    try:
        moment = datetime.combine(day, time.fromisoformat(match["time"] + (match["zone"] or "")))
    except ValueError as error:
        raise BadTime(f"{text!r} has no possible time: {error}") from None
    if moment.tzinfo is None:
        return moment
    local = to_local(moment)
    _in_range(local.date())
    return local


def parse_dates(texts: pa.StringArray, mark: DateMark) -> tuple[np.ndarray, np.ndarray]:
    """`parse_date` for a column without nulls: days (datetime64[D], NaT where bad) and the mask of the bad."""
    return parse_unique(texts, lambda text: np.datetime64(parse_date(text, mark)), np.datetime64("NaT", "D"))


def parse_times(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """`parse_time` for a column without nulls: seconds since midnight (int64, 0 where bad) and the mask of the bad."""
    return parse_unique(texts, lambda text: np.int64(seconds_of(parse_time(text))), np.int64(0))


def seconds_of(moment: time) -> int:
    """Whole seconds since midnight."""
    return moment.hour * 3600 + moment.minute * 60 + moment.second


def parse_unique(
    texts: pa.StringArray, parse: Callable[[str], np.generic], default: np.generic
) -> tuple[np.ndarray, np.ndarray]:
    """A scalar parser over a column without nulls, once for each different text.

    Gives the values (of `default`'s type, which stands where `parse` raised a ValueError) and the mask of those.
    """
    encoded: Any = texts.dictionary_encode()
    values = np.full(len(encoded.dictionary), default)
    bad = np.zeros(len(values), dtype=bool)
    for at, text in enumerate(encoded.dictionary.to_pylist()):
        try:
            values[at] = parse(text)
        except ValueError:
            bad[at] = True
    inverse = to_numpy(encoded.indices)
    return values[inverse], bad[inverse]


def _in_range(day: date) -> date:
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise BadDate(f"the year {day.year} is outside {FIRST_YEAR} to {LAST_YEAR}")
    return day
