"""Collecting one source: when it is asked, and what becomes of its answer. Everything in here is one source's own."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from b3_pipeline.errors import B3Error
from b3_pipeline.metrics import instruments
from b3_pipeline.sessions import is_session, session_after, session_before, session_of, to_local, to_utc
from b3_pipeline.settings import Settings
from b3_pipeline.sources import watching
from b3_pipeline.sources.archive import Archive, ArchiveDamaged, Entry
from b3_pipeline.sources.catalog import Source
from b3_pipeline.sources.fetching import Asked, Fetched, Getter, NotYet, Refused, Unchanged, Unreachable
from b3_pipeline.sources.state import State
from b3_pipeline.sources.times import Due, Times

FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(minutes=10)
_SETTLED_S = 5.0  # a file that was written to this short a while ago may be written to now
_LOOK_BACK = 50  # entries among which the newest session is looked for
_SET_BACK = timedelta(minutes=1)


class Outcome(StrEnum):
    """What an attempt came to."""

    NEW = "new"
    UNCHANGED = "unchanged"
    NOT_YET = "not_yet"
    REFUSED = "refused"
    FAILED = "failed"

    @property
    def ok(self) -> bool:
        return self not in (Outcome.REFUSED, Outcome.FAILED)


@dataclass(frozen=True)
class Attempt:
    """One attempt to collect a source: its outcome, the entry when there is a new one, what was wrong when it failed."""

    source: str
    outcome: Outcome
    entry: Entry | None = None
    problem: str | None = None

    def __str__(self) -> str:
        if self.entry:
            return f"{self.outcome} #{self.entry.seq} {self.entry.name} {self.entry.size} bytes"
        return f"{self.outcome}: {self.problem}" if self.problem else str(self.outcome)


class Collecting:
    """A source that is fetched, or whose file is read, at its times. For one thread.

    `tell` gets every outcome but those that are as the one before and bring nothing. `chance` gives 0…1.
    """

    def __init__(
        self,
        source: Source,
        settings: Settings,
        archive: Archive,
        getter: Getter,
        tell: Callable[[str, str], None] = lambda _source, _message: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.source, self._settings, self._archive = source, settings, archive
        self._getter, self._tell, self._chance = getter, tell, chance
        self._place = archive.place(source.name)
        self._told: str | None = None
        self._seen: datetime | None = None
        self._have: date | None = None
        self._due: datetime | None = None

    def step(self) -> Attempt | None:
        """Makes an attempt if one is due now. Raises ClockDamaged."""
        now = self._settings.clock()
        set_back = self._seen is not None and now < self._seen - _SET_BACK
        if self._due is None or set_back:
            self._due = self._first(now)
        self._seen = now
        if now < self._due:
            return None
        if not self._is_open(now):  # the machine slept: it is too late for this one
            self._due = self._next(now)
            return None
        attempt = self.collect()
        self._due = self._after(attempt, self._settings.clock())
        return attempt

    def wait(self) -> float:
        """Seconds until the next attempt, by the settings' clock."""
        return (self._due - self._settings.clock()).total_seconds() if self._due else 0.0

    def collect(self) -> Attempt:
        """Makes an attempt, whatever the time. Whatever goes wrong is in what it gives. Raises ClockDamaged."""
        began = time.perf_counter()
        now = self._settings.clock()
        attempt = self._attempt(now)
        # "not yet" is an answer, with nothing new
        counted = Outcome.UNCHANGED if attempt.outcome == Outcome.NOT_YET else attempt.outcome
        instruments.fetched(self.source.name, counted, time.perf_counter() - began)
        if attempt.entry or str(attempt) != self._told:
            self._tell(self.source.name, str(attempt))
            self._told = str(attempt)
        return attempt

    def _attempt(self, now: datetime) -> Attempt:
        name, state = self.source.name, State.read(self._place)
        try:
            entry = self._take(now, state)
        except Unchanged:
            entry = None
        except NotYet as error:
            state.not_yet(now).write(self._place)
            return Attempt(name, Outcome.NOT_YET, problem=str(error))
        except Refused as error:
            state.failed(now, str(error), refused=True).write(self._place)
            return Attempt(name, Outcome.REFUSED, problem=self._keep(error, now))
        except Exception as error:
            # an error that is not ours may quote what nobody shall see
            problem = str(error) if isinstance(error, B3Error) else unexpected(error)
            state.failed(now, problem).write(self._place)
            return Attempt(name, Outcome.FAILED, problem=problem)
        if entry is None:
            state.answered(now).write(self._place)
            return Attempt(name, Outcome.UNCHANGED)
        state.brought(now, entry.etag, entry.last_modified).write(self._place)
        if entry.session:
            self._have = max(entry.session, self._have or entry.session)
        return Attempt(name, Outcome.NEW, entry)

    def _take(self, now: datetime, state: State) -> Entry | None:
        """Fetches or reads, and archives; None when it is there. Raises what fetch functions do, and ArchiveFailed."""
        folder = self._settings.legacy_dir
        if self.source.file is not None and folder is not None:
            try:
                return self._read(folder, now)
            except OSError as error:
                raise Unreachable(f"{self.source.file} cannot be read: {error.strerror or error}.") from error
        if self.source.fetch is None:
            raise NotYet(f"{self.source.name} is not fetched from anywhere.")
        newest = next(_read_back(self._archive, self.source.name, 1), None)
        session = self._session(now)
        due = due_of(self.source.due, session) if self.source.due else None
        asked = Asked(now, session, due=due)
        if newest:  # else what is there must come, even if it came before
            asked = replace(asked, etag=state.etag, last_modified=state.last_modified, sha256=newest.sha256)
        return _keep(self._archive, self.source, self.source.fetch(self._settings, self._getter, asked), now)

    def _read(self, folder: Path, now: datetime) -> Entry | None:
        """Archives a file of the legacy folder: at any size, unless somebody writes to it now. Raises NotYet, OSError."""
        kind = self.source.kind
        path = folder / kind.file
        if self.source.watchable:
            return watching.take(self._archive, watching.read(folder, kind, kind.file, lambda: now)[0])
        before = path.stat()
        if time.time() - before.st_mtime < _SETTLED_S:
            raise NotYet(f"{kind.file} is being written.")
        with path.open("rb") as file:
            session = session_of(to_local(now).date())
            entry = self._archive.append(kind.name, file, name=kind.file, at=now, session=session)
        if entry:
            instruments.appended(entry.source, entry.size)
        return entry

    def _keep(self, refused: Refused, now: datetime) -> str:
        """Keeps the answer that was refused, and gives the reason."""
        try:
            self._archive.keep_refused(self.source.name, refused.data, now, str(refused))
        except OSError as error:
            return f"{refused} (It could not be kept: {error.strerror or error}.)"
        return str(refused)

    @property
    def _times(self) -> list[Times]:
        return [times for times in (self.source.times, self.source.late) if times]

    def _is_open(self, moment: datetime) -> bool:
        return any(_open(times, moment) for times in self._times)

    def _session(self, now: datetime) -> date:
        """The session that is asked for: the present one, or the one before while it may be late only."""
        session, local = session_of(to_local(now).date()), to_local(now).replace(tzinfo=None)
        times, late = self.source.times, self.source.late
        before = times and late and local < datetime.combine(session, times.start)
        return session_before(session) if before else session

    def _first(self, now: datetime) -> datetime:
        """When to begin: at once, if a time passed while nobody was there and the day's window is open still."""
        sessions = [entry.session for entry in _read_back(self._archive, self.source.name, _LOOK_BACK)]
        self._have = max(filter(None, sessions), default=None)
        since = State.read(self._place).attempt or now - timedelta(days=1)
        return now if self._is_open(now) and self._next(since) <= now else self._next(now)

    def _next(self, now: datetime) -> datetime:
        return min(times.next(_naive(now), self._have) for times in self._times).replace(tzinfo=UTC)

    def _after(self, attempt: Attempt, now: datetime) -> datetime:
        """When the next attempt is due. After a failure sooner, if the day's window is open then."""
        usual = self._next(now)
        if attempt.outcome.ok:
            return usual
        failures = max(1, State.read(self._place).failures)
        pause = min(FIRST_PAUSE * 2 ** min(failures - 1, 20), LONGEST_PAUSE) * (0.5 + self._chance())
        return now + pause if now + pause < usual and self._is_open(now + pause) else usual


def _keep(archive: Archive, source: Source, given: Fetched, now: datetime) -> Entry | None:
    """Archives what came; None when it is there. Raises ArchiveFailed."""
    entry = archive.append(
        source.name,
        given.data,
        name=given.name,
        at=now,
        url=given.url,
        status=given.status,
        session=given.session,
        etag=given.etag,
        last_modified=given.last_modified,
        content_type=given.content_type,
    )
    if entry:
        instruments.appended(entry.source, entry.size)
    return entry


def of_session(source: Source, settings: Settings, archive: Archive, session: date) -> Entry | None:
    """Asks a source for a session that is over, and archives what it gives; None when that is there, or it gives nothing.

    Raises what fetch functions do, and ArchiveFailed.
    """
    if source.fetch is None:
        return None
    now = settings.clock()
    asked = Asked(now, session, due=due_of(source.due, session) if source.due else None)
    try:
        given = source.fetch(settings, Getter(settings), asked)
    except Unchanged:
        return None
    entry = _keep(archive, source, replace(given, session=given.session or session), now)
    if entry is not None:
        return entry
    return next((e for e in _read_back(archive, source.name, _LOOK_BACK) if e.name == given.name), None)


def _read_back(archive: Archive, source: str, most: int) -> Iterator[Entry]:
    """Those of the last entries that can be read, the newest first: a damaged one keeps nothing else from coming in."""
    last = archive.last(source)
    for seq in range(last, max(0, last - most), -1):
        entry = None
        with suppress(ArchiveDamaged):
            entry = archive.entry(source, seq)
        if entry:
            yield entry


def due_of(due: Due, session: date) -> datetime:
    """When (aware UTC) the data of a session must be there."""
    for _ in range(due.back):
        session = session_after(session)
    return to_utc(datetime.combine(session, due.at)).replace(tzinfo=UTC)


def _open(times: Times, moment: datetime) -> bool:
    """Whether the day's times have begun, and the last of them is no longer ago than the time between two."""
    local = to_local(moment)
    start, until = (datetime.combine(local.date(), edge) + times.offset for edge in (times.start, times.until))
    return is_session(local.date()) and start <= local <= until + times.every


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def unexpected(error: Exception) -> str:
    """What an error of the code is, without its text: of which kind, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"unexpected {type(error).__name__}{where}"
