"""When a source is fetched, and by when its data is due: rules in Brasília time over sessions (pure functions)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from b3_pipeline.sessions import is_session, session_after, session_before, session_of, to_local, to_utc


@dataclass(frozen=True)
class Times:
    """On sessions from `start` to `until` (local), every `every`; `once`: only until the session's payload is there.

    `offset` is added to each time of the grid that `every` makes from `start`, so that a value of a round time is there.
    `back`: the payload that is wanted is that of so many sessions before.
    """

    start: time
    until: time
    every: timedelta
    once: bool = False
    offset: timedelta = timedelta()
    back: int = 0

    def next(self, now: datetime, have: date | None = None) -> datetime:
        """The first moment after `now` at which to fetch (both naive UTC); `have` is the newest session that is there.

        Days that are no session are left out, and with `once` those sessions that are there.
        """
        local = to_local(now)
        day = local.date() if is_session(local.date()) else session_after(local.date())
        while True:
            if not (self.once and have is not None and _sessions_before(day, self.back) <= have):
                first = _at(day, self.start) + self.offset
                steps = max(0, (local - first) // self.every + 1)
                moment = first + steps * self.every
                if moment <= _at(day, self.until) + self.offset:
                    return to_utc(moment)
            day = session_after(day)


@dataclass(frozen=True)
class Due:
    """From the local time `at` on, data of a session must be stored: of that day's, or `back` sessions before.

    With `age`, the newest must also be no older than that, until the local time `until`.
    """

    at: time
    back: int = 0
    age: timedelta | None = None
    until: time | None = None

    def expected(self, now: datetime) -> datetime:
        """The moment (naive UTC) that the newest row must have reached by now: data of it or after it is fresh."""
        local = to_local(now)
        session = session_of(local.date())
        if session == local.date() and local.time() < self.at:
            session = session_before(session)
        if self.age is not None and session == local.date():
            newest = min(local, _at(session, self.until)) if self.until else local
            return to_utc(newest - self.age)
        if self.age is not None and self.until is not None:  # the session is over: its last data
            return to_utc(_at(session, self.until) - self.age)
        return to_utc(_at(_sessions_before(session, self.back), time()))

    def next(self, now: datetime) -> datetime:
        """When (naive UTC) more than what is expected now will be due: the next session's `at`."""
        local = to_local(now)
        day = local.date()
        if not is_session(day) or local.time() >= self.at:
            day = session_after(day)
        return to_utc(_at(day, self.at))


def _sessions_before(session: date, count: int) -> date:
    for _ in range(count):
        session = session_before(session)
    return session


def _at(day: date, moment: time) -> datetime:
    return datetime.combine(day, moment)
