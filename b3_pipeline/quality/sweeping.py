"""The sweep: fills gaps from the raw archive, the shadow files and the sources, in that order, and marks what none has.

A row comes from a payload through the loader, or not at all: nothing is carried forward. Everything may run twice: loads
account for what is there already, marks and attempts are kept once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from b3_pipeline.choosing import COMPOSED
from b3_pipeline.errors import B3Error
from b3_pipeline.loading.archived import archive_of, found, payload_of
from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.load import Loader
from b3_pipeline.loading.payloads import Found, Payload, survey
from b3_pipeline.parsing.kinds import CAPTURE, REPORT
from b3_pipeline.parsing.records import FileRejected
from b3_pipeline.postgres.known_gaps import GapKey, KnownGaps, Tried
from b3_pipeline.quality.documents import CAPTURES
from b3_pipeline.quality.finding import Context, reason_of
from b3_pipeline.quality.gaps import Gap, find, most_urgent_first, series_of
from b3_pipeline.quality.stored import condition, count, during, of_feed
from b3_pipeline.questdb.client import QuestDBError
from b3_pipeline.sessions import ALWAYS, Window, session_of, to_local, window
from b3_pipeline.settings import Settings
from b3_pipeline.shadow.files import folder_of
from b3_pipeline.sources.catalog import SOURCES, Source
from b3_pipeline.sources.collecting import of_session
from b3_pipeline.sources.fetching import NotYet
from b3_pipeline.tables import MARKET_TABLES, TABLES

#: How often a sweep asks sources: the next sweep goes on. B3 has 21 sessions of a report, Yahoo 40 of its chart.
MOST_FETCHES = 60
#: What came of looking in one way: nothing was there; there was something without what is missing; what was there is
#: not what it should be; or it went wrong.
NOTHING, WITHOUT, REJECTED, FAILED = "nothing", "without", "rejected", "failed"


@dataclass(frozen=True)
class Ways:
    """Where a sweep looks beside the files at hand.

    `from_archive(source, session)` gives the payloads of the raw archive that may hold that session, in the archive's
    order. `shadow` is the folder of our shadow files. `fetch(source, session)` asks the source, puts what came into the
    archive and returns it; None when the source has nothing of it. Both may raise B3Error. Sources are given by name.
    """

    from_archive: Callable[[str, date], Iterable[Payload]] = lambda _source, _session: ()
    shadow: Path | None = None
    fetch: Callable[[str, date], Payload | None] = lambda _source, _session: None
    most_fetches: int = MOST_FETCHES


def ways_of(settings: Settings) -> Ways:
    """Where the sweeps of a home look."""
    archive = archive_of(settings.home)

    def from_archive(source: str, session: date) -> list[Payload]:
        # a file that goes on for years has a session from then on, and its newest state says all
        whole = SOURCES[source].kind.whole
        files = found(archive, [source], session, session if whole else None)
        payloads = [file.payload for file in files if file.payload]
        return payloads if whole else payloads[-1:]

    def fetch(source: str, session: date) -> Payload | None:
        entry = of_session(SOURCES[source], settings, archive, session)
        return payload_of(archive, entry) if entry else None

    return Ways(from_archive, folder_of(settings), fetch)


@dataclass
class SweepReport:
    """What a sweep found, and what became of each gap: repaired (and in which way), known or open (and why).

    `unmarked` were known, and their data has come. `failed` says what went wrong on a way to a gap that is left.
    `today` is local.
    """

    today: date
    found: list[Gap] = field(default_factory=list)
    repaired: list[tuple[Gap, str]] = field(default_factory=list)
    known: list[tuple[Gap, str]] = field(default_factory=list)
    open: list[tuple[Gap, str]] = field(default_factory=list)
    unmarked: list[GapKey] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def last_chances(self) -> list[Gap]:
        """The open gaps that their source gives today for the last time."""
        return [gap for gap, _why in self.open if gap.sessions_left(self.today) == 0]

    @property
    def ok(self) -> bool:
        """Whether no gap is open."""
        return not self.open

    @property
    def states(self) -> dict[str, dict[Gap, str]]:
        """The gaps by their state, open ones first; in each the most urgent one first, and why (repaired: how)."""
        groups = {"open": dict(self.open), "repaired": dict(self.repaired), "known": dict(self.known)}
        return {
            state: {gap: whys[gap] for gap in most_urgent_first(whys, self.today)} for state, whys in groups.items()
        }

    def document(self) -> dict[str, Any]:
        """The JSON of `b3 gaps`."""
        states = ((state, gap, why) for state, whys in self.states.items() for gap, why in whys.items())
        return {
            "ok": self.ok,
            "gaps": [{**gap.document(self.today), "state": state, "why": why} for state, gap, why in states],
            "unmarked": [key._asdict() for key in self.unmarked],
        }


def look(context: Context, known: KnownGaps, within: Window = ALWAYS, feed: str | None = None) -> SweepReport:
    """Finds gaps and says which of them are known; nothing is changed. Raises QuestDBError, KnownGapsError."""
    report = SweepReport(to_local(context.now).date(), find_all(context, within, feed))
    marks = {mark.key: mark for mark in known.marks()}
    for gap in report.found:
        if gap.key in marks:
            report.known.append((gap, marks[gap.key].why))
        else:
            report.open.append((gap, _deadline(gap, report.today)))
    return report


def find_all(context: Context, within: Window = ALWAYS, feed: str | None = None) -> list[Gap]:
    """The gaps of all market tables (`gaps.find`), once everything that was written shows."""
    found = []
    for table in MARKET_TABLES:
        context.db.wait_applied(table.name)
        found += find(context, table, within, feed)
    return found


def sweep(
    context: Context,
    loader: Loader,
    known: KnownGaps,
    ways: Ways,
    within: Window = ALWAYS,
    feed: str | None = None,
    who: str = "sweep",
    announce: Callable[[str], None] = lambda _what: None,
) -> SweepReport:
    """Repairs what can be, marks what cannot, takes marks back whose data has come; `announce` is told what is at work.

    Safe to run twice, and after it was killed. Raises KnownGapsError when another sweep is at it or PostgreSQL is away,
    QuestDBError when that is.
    """
    with known.alone():
        return _Sweep(context, loader, known, ways, who, announce).run(within, feed)


@dataclass
class _Sweep:
    context: Context
    loader: Loader
    known: KnownGaps
    ways: Ways
    who: str
    announce: Callable[[str], None]
    fetches: int = 0
    _read: set[tuple[str, str, Window]] = field(default_factory=set)  # long files: SHA-256, table, what of them
    _shadows: list[Found] | None = None
    _sessions: dict[str, date | None] = field(default_factory=dict)  # of captures, by SHA-256
    _failed: list[tuple[list[GapKey], str]] = field(default_factory=list)

    def run(self, within: Window, feed: str | None) -> SweepReport:
        today = to_local(self.context.now).date()
        report = SweepReport(today, find_all(self.context, within, feed))
        report.unmarked = list(self._unmark(report.found, within, feed))
        marks = {mark.key: mark for mark in self.known.marks()}
        report.known = [(gap, marks[gap.key].why) for gap in report.found if gap.key in marks]
        missing = [gap for gap in report.found if gap.key not in marks]
        for source, gaps in _by_source(missing):
            closed, left = self._source(source, gaps)
            report.repaired += closed
            for gap in left:
                self._settle(gap, report)
        left = {gap.key._replace(part="") for gap, _why in (*report.open, *report.known)}
        report.failed = [what for keys, what in self._failed if any(key._replace(part="") in left for key in keys)]
        return report

    def _unmark(self, found: Sequence[Gap], within: Window, feed: str | None) -> Iterator[GapKey]:
        """Takes back the marks of gaps that are none any more, and forgets what was tried for such."""
        missing = {gap.key for gap in found}

        def is_closed(key: GapKey) -> bool:
            looked_at = feed in (None, key.feed) and key.table in TABLES and _lies_in(key.session, within)
            return looked_at and key.session < to_local(self.context.now).date() and key not in missing

        for key in filter(is_closed, sorted(self.known.marked())):
            self.known.unmark(key, "nothing is missing there any more", self.who, self.context.now)
            yield key
        for key in filter(is_closed, self.known.noted()):
            self.known.forget(key)

    def _source(self, source: Source | None, gaps: list[Gap]) -> tuple[list[tuple[Gap, str]], list[Gap]]:
        """Looks in one way after the other; returns the gaps that it closed, each with its way, and those that are left."""
        closed: list[tuple[Gap, str]] = []
        if source is None:
            return closed, gaps
        ways = {"archive": self._archived, "shadow": self._shadow, "folder": self._at_hand, "source": self._fetched}
        whole = window(min(gap.session for gap in gaps), max(gap.session for gap in gaps))
        for way, payloads in ways.items():
            if not gaps:
                break
            self.announce(f"{source.name}: {len(gaps)} gaps, {way}")
            tried = [
                (some, *self._look(way, payloads, source, session, some, whole)) for session, some in _by_session(gaps)
            ]
            left = self._still_missing(gaps, whole)
            rest = _parts(left)
            done = {gap for gap in gaps if not _is_among(gap, rest)}
            closed += [(gap, way) for gap in gaps if gap in done]
            for gap in done:
                self.known.forget(gap.key)
            for some, outcome, detail in tried:
                if keys := [gap.key for gap in some if gap not in done and outcome]:
                    self.known.note(keys, way, outcome, detail, self.context.now)
                    if outcome == FAILED:
                        self._failed.append((keys, f"{source.name} {some[0].session}, {way}: {detail}"))
            gaps = left
        return closed, gaps

    def _look(
        self, way: str, payloads: _Way, source: Source, session: date, gaps: list[Gap], whole: Window
    ) -> tuple[str, str]:
        """Loads what one way has of a session; returns the outcome and its reason. The outcome is empty if not tried."""
        one = window(session, session)
        # A file that goes on for years is read once for all sessions; a shadow file gives what was asked for, no more.
        within = whole if not source.kind.whole and way != "shadow" else one
        try:
            given = payloads(source, session, gaps)
            if isinstance(given, str):
                return NOTHING, given
            if given is None:
                return "", ""
            return self._load(given, sorted({gap.table for gap in gaps}), within)
        except QuestDBError:
            raise
        except NotYet as error:
            return NOTHING, str(error)
        except Exception as error:  # one source must not keep the others from being repaired
            return FAILED, reason_of(error)

    def _load(self, payloads: Iterable[Payload], tables: Sequence[str], within: Window) -> tuple[str, str]:
        """Loads payloads into the tables that miss something."""
        loader = replace(self.loader, window=within, again=True)
        names: list[str] = []
        worse: dict[str, list[str]] = {"failed": [], "rejected": []}
        for payload in payloads:
            names.append(payload.name)
            for table in tables:
                if (payload.sha256, table, within) in self._read:
                    continue
                [report] = load_all(loader, [payload], TABLES[table])
                if report.outcome in worse:
                    worse[report.outcome].append(f"{payload.name}: {report.reason}")
                if report.outcome != "failed" and not payload.kind.whole:
                    self._read.add((payload.sha256, table, within))
        for outcome, reasons in zip((FAILED, REJECTED), worse.values(), strict=True):
            if reasons:
                return outcome, _some(reasons, "; ")
        return (WITHOUT, f"not in {_some(names, ', ')}") if names else (NOTHING, "nothing of it")

    def _archived(self, source: Source, session: date, _gaps: list[Gap]) -> list[Payload]:
        """What the home keeps: the raw archive, and the reports that were loaded by hand."""
        kept = [] if source.file else [p for p in self._files(self.context.files, source) if self._may_hold(p, session)]
        archived = list(self.ways.from_archive(source.name, session))
        there = {payload.sha256 for payload in archived}
        return [*(payload for payload in kept if payload.sha256 not in there), *archived]

    def _shadow(self, source: Source, session: date, gaps: list[Gap]) -> list[Payload] | str | None:
        """What our shadow files have; nothing where it may be another feed's: they are written from all feeds."""
        if self.ways.shadow is None or source.file is None or not self.ways.shadow.is_dir():
            return None
        if not source.kind.whole and list(self._files(self.context.files, source)):
            return "the legacy folder itself is at hand"
        if source.kind is not CAPTURE and any(self._has_another_feed(gap) for gap in gaps):
            return "another feed has this session, and what the shadow has may be of that one"
        if self._shadows is None:
            self._shadows = survey(self.ways.shadow)
        payloads = (p for p in self._files(self._shadows, source) if self._may_hold(p, session))
        return [replace(p, name=f"shadow/{p.name}") for p in payloads if not self._is_composed(p)]

    def _is_composed(self, payload: Payload) -> bool:
        """Whether it is a document of our own making, which fills no gap of the legacy collector's."""
        where = condition("sha256 = %s", payload.sha256) & of_feed(COMPOSED)
        return count(self.context.db, CAPTURES, where) > 0

    def _has_another_feed(self, gap: Gap) -> bool:
        table = TABLES[gap.table]
        where = during(table, window(gap.session, gap.session)) & condition("feed != %s", gap.feed)
        return count(self.context.db, table, where) > 0

    def _at_hand(self, source: Source, session: date, _gaps: list[Gap]) -> list[Payload] | None:
        """What lies in the legacy folder, which is the source of the legacy feeds."""
        if source.file is None:
            return None
        given = (p for p in self._files(self.context.files, source) if p.opened is None)
        return [payload for payload in given if self._may_hold(payload, session)]

    def _fetched(self, source: Source, session: date, gaps: list[Gap]) -> list[Payload] | str | None:
        """What the source itself gives, as long as it is known to have it."""
        if all(gap.sessions_left(to_local(self.context.now).date()) is None for gap in gaps):
            return None
        if self.fetches >= self.ways.most_fetches:
            return f"not asked: {self.ways.most_fetches} questions a sweep are enough, the next one goes on"
        self.fetches += 1
        payload = self.ways.fetch(source.name, session)
        return "the source has nothing of it" if payload is None else [payload]

    @staticmethod
    def _files(files: Iterable[Found], source: Source) -> Iterator[Payload]:
        """The files of a source's kind; those in the archive are asked of it."""
        return (p for f in files if f.kind == source.kind and (p := f.loadable) and p.opened is None)

    def _may_hold(self, payload: Payload, session: date) -> bool:
        """Whether a payload may hold something of a session, as far as it says without being loaded."""
        if payload.kind.moment is not None:
            if payload.sha256 not in self._sessions:
                self._sessions[payload.sha256] = _session_of(payload, payload.kind.moment)
            return self._sessions[payload.sha256] == session
        if payload.kind is REPORT:
            dated = re.search(r"\d{6}", payload.name)
            return dated is None or dated[0] == f"{session:%y%m%d}"
        return True

    def _still_missing(self, gaps: Sequence[Gap], whole: Window) -> list[Gap]:
        """What is missing now of what was; of a session that was missing as a whole, the buckets that still are."""
        [feed] = {gap.feed for gap in gaps}
        found = (
            gap for name in sorted({g.table for g in gaps}) for gap in find(self.context, TABLES[name], whole, feed)
        )
        before = _parts(gaps)
        return [gap for gap in found if _is_among(gap, before)]

    def _settle(self, gap: Gap, report: SweepReport) -> None:
        """Marks a gap as known when nobody can fill it any more, else leaves it open."""
        # what another way than the source said at an earlier sweep, and is not tried any more, is void
        tried = [t for t in self.known.tried(gap.key) if t.way == "source" or t.last_at == self.context.now]
        why, final = _verdict(gap, tried, report.today)
        if final:
            self.known.mark(gap.key, why, self.who, self.context.now)
            report.known.append((gap, why))
        else:
            report.open.append((gap, why))


_Way = Callable[[Source, date, list[Gap]], list[Payload] | str | None]


def _verdict(gap: Gap, tried: Sequence[Tried], today: date) -> tuple[str, bool]:
    """Why a gap is as it is, and whether that is final.

    The present session's is not: people are to see it first. Nor is one that the source may still fill; but when it has
    answered on two days, without what is missing, it never had it. One answer could be half an answer. What we have
    ourselves and cannot load may be loaded by a parser that is mended.
    """
    reasons = "; ".join(f"{each.way}: {each.detail}" for each in tried)
    asked = next((each for each in tried if each.way == "source"), None)
    if gap.session >= session_of(today):
        return _joined("it is of the present session", reasons), False
    if gap.sessions_left(today) is not None:
        if asked and asked.outcome == WITHOUT and to_local(asked.first_at).date() < to_local(asked.last_at).date():
            return _joined("the source answered on two days without it", reasons), True
        return _joined(_deadline(gap, today), reasons), False
    if any(each.outcome in (FAILED, REJECTED) and each is not asked for each in tried):
        return _joined("something went wrong, so that it may still be there", reasons), False
    return _joined(
        "no source has it any more" if gap.available_until else "no source gives what is past", reasons
    ), True


def _some(texts: Sequence[str], between: str) -> str:
    """The first of many texts."""
    return between.join([*texts[:3], *(["…"] if len(texts) > 3 else [])])


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)


def _deadline(gap: Gap, today: date) -> str:
    left = gap.sessions_left(today)
    if left is None:
        return ""
    return f"the source keeps it until {gap.available_until}: {left} sessions left"


def _by_source(gaps: Iterable[Gap]) -> list[tuple[Source | None, list[Gap]]]:
    """The gaps of each source; those that something is collected from first, for shadow files follow them."""
    groups: dict[str | None, tuple[Source | None, list[Gap]]] = {}
    for gap in gaps:
        source = _source_of(gap)
        # strangers each for themselves, so that all gaps of a group are of one feed
        groups.setdefault(source.name if source else gap.feed, (source, []))[1].append(gap)
    return sorted(groups.values(), key=lambda group: group[0] is None or group[0].file is not None)


def _source_of(gap: Gap) -> Source | None:
    """Whose it is to bring what is missing."""
    for series in series_of(TABLES[gap.table]):
        if series.feed == gap.feed and series.endpoint in ("", gap.part):
            return series.source
    return None


def _by_session(gaps: Iterable[Gap]) -> list[tuple[date, list[Gap]]]:
    """The gaps of each session, the oldest first: a source forgets it before the others."""
    sessions: dict[date, list[Gap]] = {}
    for gap in gaps:
        sessions.setdefault(gap.session, []).append(gap)
    return sorted(sessions.items())


def _parts(gaps: Iterable[Gap]) -> dict[GapKey, set[str]]:
    """Which parts are missing, by feed, table and session."""
    missing: dict[GapKey, set[str]] = {}
    for gap in gaps:
        missing.setdefault(gap.key._replace(part=""), set()).add(gap.part)
    return missing


def _is_among(gap: Gap, missing: Mapping[GapKey, set[str]]) -> bool:
    """Whether a gap, all of it or a part of it, is among what is missing: a session as a whole means each part."""
    there = missing.get(gap.key._replace(part=""), set())
    return bool(there) and (gap.part == "" or not there.isdisjoint(("", gap.part)))


def _lies_in(session: date, within: Window) -> bool:
    start = window(session, session).start
    assert start is not None, "a session begins"
    after = within.start is None or start >= within.start
    return after and (within.end is None or start < within.end)


def _session_of(payload: Payload, moment: Callable[[bytes], datetime | None]) -> date | None:
    """The session of a capture; None when it does not say."""
    try:
        with payload.open() as stream:
            captured = moment(stream.read())
    except (B3Error, FileRejected, OSError):  # loading it would say why
        return None
    return None if captured is None else session_of(to_local(captured).date())
