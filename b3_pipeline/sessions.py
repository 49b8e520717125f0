"""The trading calendar and Brasília time: which days are sessions, what a local time is in UTC.

Sessions are B3's (`exchange_calendars`, BVMF); beyond that calendar's span every weekday counts as one. Bank days, in
which rates are reckoned, are the sessions and some more: B3 closes on days on which banks work.
Scalar functions hold the rules; those over numpy arrays give the same for many days at once.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np

from b3_pipeline.settings import LOCAL_ZONE

ZONE = ZoneInfo(LOCAL_ZONE)
#: Before this local hour a row or a capture carries the settlement of the session before (FORMATS §3).
SETTLED_FROM = time(18)
#: As far as the calendar is worked out: each further century costs every process a tenth of a second.
_SPAN = ("1990-01-01", "2060-12-31")
_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Window:
    """A stretch of time, naive UTC: `start` belongs to it, `end` does not; None is without an end."""

    start: datetime | None = None
    end: datetime | None = None

    def mask(self, moments: np.ndarray) -> np.ndarray:
        """Which moments (datetime64) lie inside: bool of the same length."""
        inside = np.ones(len(moments), bool)
        if self.start is not None:
            inside &= moments >= np.datetime64(self.start)
        if self.end is not None:
            inside &= moments < np.datetime64(self.end)
        return inside

    def bounds(self) -> tuple[datetime, datetime]:
        """Both ends as moments, also where there is none: what a query is given."""
        return self.start or _EARLIEST, self.end or _LATEST


#: Far beyond any record, and within what QuestDB can compare with.
_EARLIEST, _LATEST = (datetime(year, 1, 1, tzinfo=UTC).replace(tzinfo=None) for year in (1, 9999))
ALWAYS = Window()


class NonexistentTime(ValueError):
    """A local time that never was: the clocks were put forward over it."""


@cache
def _calendar() -> np.busdaycalendar:
    # Here, for the import takes seconds and most commands never ask for a session.
    from exchange_calendars import get_calendar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas deprecates what the calendar's package does inside
        sessions = get_calendar("BVMF", start=_SPAN[0], end=_SPAN[1]).sessions.to_numpy().astype("datetime64[D]")
    days = np.arange(_SPAN[0], np.datetime64(_SPAN[1]) + _DAY, dtype="datetime64[D]")
    return np.busdaycalendar(holidays=np.setdiff1d(days, sessions))


@cache
def _bank_calendar() -> np.busdaycalendar:
    closed = _calendar().holidays
    return np.busdaycalendar(holidays=closed[[not _banks_work(day) for day in closed.tolist()]])


def _banks_work(closed: date) -> bool:
    """Whether a weekday without a session is a bank day: B3 closes at the year's end, until 2021 on its city's holidays too."""
    if closed.month == 12:
        return closed.day != 25
    day = closed.month, closed.day
    return day in ((1, 25), (7, 9)) or (day == (11, 20) and closed.year < 2024)  # since then it is the whole country's


def bank_days(first: date, end: date) -> int:
    """How many bank days there are from `first` (included) to `end` (not included); holidays as they are known today."""
    return int(np.busday_count(first, end, busdaycal=_bank_calendar()))


def sessions_of(days: np.ndarray) -> np.ndarray:
    """`session_of` for many days: datetime64[D] to the same."""
    return np.busday_offset(days, 0, roll="backward", busdaycal=_calendar())


def weekday_holidays(first: date) -> list[date]:
    """The days from Monday to Friday, `first` or later, on which B3 does not trade; as far as the calendar goes."""
    days = np.arange(np.datetime64(first), np.datetime64(_SPAN[1]), dtype="datetime64[D]")
    return days[np.is_busday(days) & ~np.is_busday(days, busdaycal=_calendar())].tolist()


def is_session(day: date) -> bool:
    """Whether B3 trades on that day."""
    return bool(np.is_busday(day, busdaycal=_calendar()))


def session_of(day: date) -> date:
    """That day, or the last session before it: the partition of a record with that local date."""
    return sessions_of(np.array([day], dtype="datetime64[D]"))[0].item()


def session_before(day: date) -> date:
    """The last session strictly before that day."""
    return session_of(day - timedelta(days=1))


def session_after(day: date) -> date:
    """The first session strictly after that day."""
    return np.busday_offset(np.array([day], dtype="datetime64[D]"), 1, roll="backward", busdaycal=_calendar())[0].item()


def window(first: date, last: date) -> Window:
    """The time of the sessions from `first` to `last`: of their own days, and of the days without one that follow each."""
    return Window(_midnight(first), _midnight(session_after(last)))


def _midnight(day: date) -> datetime:
    """The first moment of a local day, naive UTC: 01:00 where the clocks were put forward at midnight."""
    try:
        return to_utc(datetime.combine(day, time()))
    except NonexistentTime:
        return to_utc(datetime.combine(day, time(1)))


def trade_date(local: datetime) -> date:
    """The session that a row or a capture of this local time belongs to (FORMATS §3).

    Before 18:00 it carries the settlement of the session before, afterwards that of its own day.
    """
    return session_before(local.date()) if local.time() < SETTLED_FROM else session_of(local.date())


def trade_dates(days: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """`trade_date` for many rows: local days (datetime64[D]) and seconds since their midnight to datetime64[D]."""
    return sessions_of(days - np.where(seconds < SETTLED_FROM.hour * 3600, 1, 0).astype("timedelta64[D]"))


def to_local(utc: datetime) -> datetime:
    """A moment (UTC when it has no zone) as a naive local time."""
    aware = utc.replace(tzinfo=UTC) if utc.tzinfo is None else utc
    return aware.astimezone(ZONE).replace(tzinfo=None)


def to_utc(local: datetime) -> datetime:
    """A naive local time as naive UTC; of two moments with the same local time the earlier is meant.

    Raises `NonexistentTime` for a local time that the clocks skipped.
    """
    utc = local.replace(tzinfo=ZONE, fold=0).astimezone(UTC).replace(tzinfo=None)
    if to_local(utc) != local:
        raise NonexistentTime(f"{local} never was in {LOCAL_ZONE}: the clocks were put forward over it")
    return utc


def days_and_seconds_to_utc(days: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`to_utc` for many: local days (datetime64[D], no NaT) and seconds since midnight, both of one length.

    Gives UTC (datetime64[us]; NaT where the time never was) and the mask of the times that never were.
    """
    if not len(days):
        return np.array([], dtype="datetime64[us]"), np.array([], dtype=bool)
    first, last = days.min().item().year, days.max().item().year
    # One more year, for the end of a day is the midnight of the next.
    offsets = np.concatenate([_offsets_at_midnight(year) for year in range(first, last + 2)])
    places = (days - np.datetime64(f"{first:04d}-01-01", "D")).astype(np.int64)
    local = days.astype("datetime64[us]") + seconds.astype("timedelta64[s]")
    utc = local - offsets[places]
    nonexistent = np.zeros(len(days), dtype=bool)
    shifted = offsets[places] != offsets[places + 1]
    for at in np.flatnonzero(shifted):
        try:
            utc[at] = to_utc(local[at].item())
        except NonexistentTime:
            utc[at], nonexistent[at] = np.datetime64("NaT"), True
    return utc, nonexistent


@cache
def _offsets_at_midnight(year: int) -> np.ndarray:
    """Local time minus UTC at the start of each day of the year (timedelta64[s])."""
    days = np.arange(f"{year:04d}-01-01", f"{year + 1:04d}-01-01", dtype="datetime64[D]").tolist()
    return np.array([datetime.combine(day, time(), ZONE).utcoffset() for day in days], dtype="timedelta64[s]")
