"""Dates and times as the sources write them, for one text and for columns: exactly the digits of each form.

Everything is local (Brasília) time without a zone; `b3_pipeline.sessions` turns it into UTC.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute

from b3_pipeline.parsing.numbers import each_once, to_numpy
from b3_pipeline.sessions import to_local

pc: Any = pyarrow.compute  # its functions are made at run time, so that no type checker knows them

#: `-` for the dd-mm-yyyy of CSV files, `/` for the dd/mm/yyyy of `data_atualizacao` (FORMATS §1).
DateMark = Literal["-", "/"]
# Designated timestamps begin in 1970 (UTC) and nanosecond calendars end in 2262.
FIRST_YEAR, LAST_YEAR = 1971, 2261
_NO_TIME = -1

_DATES = {mark: re.compile(rf"([0-9]{{2}}){mark}([0-9]{{2}}){mark}([0-9]{{4}})") for mark in ("-", "/")}
_TIME = re.compile(r"([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?")
_TIMESTAMP = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[T ]"
    r"(?P<time>[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.(?P<fraction>[0-9]{1,9}))?)?)(?P<zone>Z|[+-][0-9]{2}:?[0-9]{2})?"
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
    match = _TIME.fullmatch(text.strip())
    if not match:
        raise BadTime(f"{text!r} is no HH:MM:SS")
    try:
        return time(int(match[1]), int(match[2]), int(match[3] or 0))
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
    moment = datetime.combine(day, parse_time(match["time"].partition(".")[0]))
    moment = moment.replace(microsecond=int((match["fraction"] or "0")[:6].ljust(6, "0")))
    if not match["zone"]:
        return moment
    try:
        moment = moment.replace(tzinfo=datetime.strptime(match["zone"], "%z").tzinfo)
    except ValueError as error:
        raise BadTime(f"{text!r} has no possible zone: {error}") from None
    local = to_local(moment)
    _in_range(local.date())
    return local


def parse_dates(texts: Any, mark: DateMark) -> tuple[np.ndarray, np.ndarray]:
    """`parse_date` for a column (strings, or a dictionary of them) without nulls.

    Gives days (datetime64[D], NaT where bad) and the mask of the bad.
    """
    different, places = each_once(texts)
    trimmed = pc.utf8_trim_whitespace(different)
    formed = to_numpy(pc.match_substring_regex(trimmed, f"^{_DATES[mark].pattern}$"))
    days = np.full(len(trimmed), np.datetime64("NaT", "D"))
    days[formed] = _days_of_digits(_characters(trimmed.filter(pa.array(formed)), 10))
    return days[places], np.isnat(days)[places]


def _characters(texts: Any, length: int) -> np.ndarray:
    """ASCII texts of one length as their digits' values, a row a text (int64); what is no digit has no meaning."""
    joined = b"".join(texts.cast(pa.binary()).to_pylist())
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, length).astype(np.int64) - ord("0")


def _days_of_digits(digits: np.ndarray) -> np.ndarray:
    """The characters of dd-mm-yyyy as days; NaT where there is no such day or year."""
    day, month = digits[:, 0:2] @ [10, 1], digits[:, 3:5] @ [10, 1]
    year = digits[:, 6:10] @ [1000, 100, 10, 1]
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1).astype("timedelta64[D]")
    possible = (month >= 1) & (month <= 12) & (day >= 1) & (days.astype("datetime64[M]") == months)
    return np.where(possible & (year >= FIRST_YEAR) & (year <= LAST_YEAR), days, np.datetime64("NaT", "D"))


def parse_times(texts: Any) -> tuple[np.ndarray, np.ndarray]:
    """`parse_time` for a column (strings, or a dictionary of them) without nulls.

    Gives seconds since midnight (int64, 0 where bad) and the mask of the bad.
    """
    different, places = each_once(texts)
    trimmed = pc.utf8_trim_whitespace(different)
    full = to_numpy(pc.match_substring_regex(trimmed, "^[0-9]{2}:[0-9]{2}:[0-9]{2}$"))
    seconds = np.full(len(trimmed), _NO_TIME)
    seconds[full] = _seconds_of_digits(_characters(trimmed.filter(pa.array(full)), 8))
    seconds[~full] = [_seconds_if_any(text) for text in trimmed.filter(pa.array(~full)).to_pylist()]
    bad = seconds == _NO_TIME
    return np.where(bad, 0, seconds)[places], bad[places]


def _seconds_of_digits(digits: np.ndarray) -> np.ndarray:
    """The characters of HH:MM:SS as seconds since midnight; _NO_TIME where there is no such time."""
    hour, minute, second = (digits[:, at : at + 2] @ [10, 1] for at in (0, 3, 6))
    possible = (hour < 24) & (minute < 60) & (second < 60)
    return np.where(possible, hour * 3600 + minute * 60 + second, _NO_TIME)


def seconds_of(moment: time) -> int:
    """Whole seconds since midnight."""
    return moment.hour * 3600 + moment.minute * 60 + moment.second


def _seconds_if_any(text: str) -> int:
    try:
        return seconds_of(parse_time(text))
    except BadTime:
        return _NO_TIME


def _in_range(day: date) -> date:
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise BadDate(f"the year {day.year} is outside {FIRST_YEAR} to {LAST_YEAR}")
    return day
