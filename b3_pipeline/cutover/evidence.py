"""What the gates judge, as it is in a home right now; what cannot be found out is a red gate with the reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from b3_pipeline import migration_log, standing
from b3_pipeline.alerts import outbox
from b3_pipeline.cutover import gates, looked, phases
from b3_pipeline.cutover.gates import Gate, Verdict
from b3_pipeline.cutover.looked import Looked
from b3_pipeline.loading.archived import archive_of, entries
from b3_pipeline.lowdb import levelling
from b3_pipeline.lowdb.files import Files
from b3_pipeline.lowdb.levelling import Parity
from b3_pipeline.lowdb.model import FILE_NAMES, Record
from b3_pipeline.parsing.capture import capture_moment
from b3_pipeline.parsing.kinds import CAPTURE, LEGACY_KINDS
from b3_pipeline.places import backups_of
from b3_pipeline.postgres import callers, compared, comparisons, mismatches
from b3_pipeline.postgres.flags import IDEAS, MARKET, PHASE, Entry, Flags, FlagsError, set_flag
from b3_pipeline.quality.checks import PARITY, Check, checks_of
from b3_pipeline.quality.finding import Context, reason_of
from b3_pipeline.quality.of_home import context_of
from b3_pipeline.quality.sources import at_hand
from b3_pipeline.quality.validate import validate, work
from b3_pipeline.questdb import schema
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.residents import HEALTH_AGENT, MONITOR, alive
from b3_pipeline.services import Engines
from b3_pipeline.sessions import session_of, to_local, window
from b3_pipeline.settings import Settings
from b3_pipeline.sources.archive import Archive
from b3_pipeline.sources.catalog import collected
from b3_pipeline.tables import MARKET_TABLES, TABLES

#: What has just come is loaded at the sensors' next turn: so long it may be behind.
DRAINED_WITHIN_S = 20.0
#: Asking both sides for the legacy routes takes no longer: a capture may be on its way to us for half a minute.
COMPARED_WITHIN_S = 60.0
#: A write of an idea that is in the files is in the tables, too, after so long; writers of the files wait meanwhile.
SETTLED_WITHIN_S = 1.0
_COMPARISONS = 5_000
Tell = Callable[[str], None]


def _nobody(_what: str) -> None:
    pass


@dataclass
class Desk:
    """A home whose servers are up, as the gates look at it.

    `tell` is told what is looked at, `expect` how many bytes will be read for it, `progress` those that were. `sleep` is
    how it waits for other processes.
    """

    settings: Settings
    engines: Engines
    db: QuestDB
    domain: str
    tell: Tell = _nobody
    progress: Callable[[int], None] = lambda _bytes: None
    expect: Callable[[int], None] = lambda _bytes: None
    patience_s: float = DRAINED_WITHIN_S
    sleep: Callable[[float], None] = time.sleep

    @property
    def dsn(self) -> str:
        return self.engines.postgres_dsn

    @cached_property
    def now(self) -> datetime:
        """When it was looked at, aware UTC: one moment for all gates."""
        return self.settings.clock().astimezone(UTC)

    def entry(self) -> Entry:
        """The phase that stands, with who set it when and why. Raises FlagsError while nobody can say."""
        current = Flags(self.settings.home, self.dsn).current()
        if current.stale:
            raise FlagsError(
                "PostgreSQL does not answer, so nobody can say which phase stands, or move it (`b3 status`)."
            )
        return current.entries[self.domain, PHASE.name]

    def enter(self, phase: str, *, who: str, why: str) -> None:
        """Sets the phase, from this moment on. Raises FlagsError."""
        set_flag(self.dsn, PHASE.name, phase, why=why, who=who, at=self.settings.clock(), domain=self.domain)

    @cached_property
    def since(self) -> datetime | None:
        """When the phase began, aware UTC."""
        return self.entry().since

    @cached_property
    def context(self) -> Context:
        """What checks are given: the sources at hand, the legacy folder among them."""
        files = at_hand(self.settings.legacy_dir, self.settings.home)
        current = Flags(self.settings.home, self.dsn).current()
        found = context_of(self.settings, self.db, files, self.dsn, current)
        return replace(found, progress=self.progress)


def look(desk: Desk, step: phases.Step, announce: Callable[[Gate], object] = lambda _gate: None) -> list[Gate]:
    """Looks at the gates of a step, one after another, and keeps what they said; `announce` is told each.

    What goes wrong in looking is a red gate that says so.
    """
    found = []
    for gate in _each(desk, step.gates):
        announce(gate)
        found.append(gate)
    looked.keep(desk.settings.home, desk.domain, Looked(desk.now, step.phase, step.to, found))
    return found


def _each(desk: Desk, names: Iterable[str]) -> Iterator[Gate]:
    for name in names:
        desk.tell(f"Looking at {name.replace('_', ' ')}")
        try:
            verdict = LOOKS[desk.domain][name](desk)
        except Exception as error:  # one that cannot be looked at must not hide the others
            verdict = Verdict(ok=False, found=f"{gates.UNSEEN}: {reason_of(error)}")
        yield Gate(name, *verdict, desk.domain)


def _schema(desk: Desk) -> Verdict:
    drift = schema.diff(desk.db)
    return gates.schema(
        {table: found["server"] for table, found in drift.items() if found["server"] and table in TABLES}
    )


def _parity(desk: Desk) -> Verdict:
    """By the last report if that is of the last hour and was good, else by one that is made now."""
    from b3_pipeline.quality import parity_report

    kept = parity_report.latest(desk.settings.home)
    verdict = gates.parity(kept, desk.now)
    if verdict.ok:
        return verdict
    desk.expect(work(desk.context))
    report = validate(desk.context, lambda check: desk.tell(f"Validating {check.table.name}: {check.name}"))
    document = report.document()
    parity_report.keep(desk.settings.home, document, desk.now)
    return gates.parity({**document, "at": desk.now}, desk.now)


def _last_session(desk: Desk) -> Verdict:
    session = next(phases.finished_sessions(desk.now))
    keys, failed = 0, []
    for check in _of_values():
        found = check.finding(desk.context, window(session, session))
        keys += int(found.numbers.get("table_keys", 0))
        if not (found.passed or found.undecided):
            failed.append(f"{check.table.name}, {check.name}: {found.advice}")
    return gates.last_session(session, keys, failed)


def _of_values() -> Iterator[Check]:
    """The checks that say whether a session's rows and documents are what was given."""
    for table in MARKET_TABLES:
        yield from (check for check in checks_of(table) if check.name.startswith(PARITY) or check.name == "rebuild")


def _mismatches(desk: Desk) -> Verdict:
    from b3_pipeline.api.legacy import ROUTES

    asked = asyncio.run(_both_sides(desk, ROUTES))
    return gates.mismatches(mismatches.open_count(desk.dsn, desk.domain), asked, len(ROUTES))


async def _both_sides(desk: Desk, routes: Iterable[str]) -> int:
    """Asks both sides for each legacy route as readers do, and keeps what differs; returns how many could be compared."""
    from b3_pipeline.api.legacy import Ours
    from b3_pipeline.api.service import Service
    from b3_pipeline.api.store import Store
    from b3_pipeline.api.switch import LegacyAway, Switch, legacy_side

    async with asyncio.timeout(COMPARED_WITHIN_S), Store(desk.engines.questdb) as store:
        current = Flags(desk.settings.home, desk.dsn).current()
        service = Service(desk.settings, store, desk.dsn, current)
        async with legacy_side(service) as side:
            if side is None:
                return 0
            switch = Switch(service, Ours(service), side, desk.settings.payload_ignore)
            try:
                for path in routes:
                    with suppress(LegacyAway):
                        theirs = await side.get(path)
                        if theirs.status == 200:
                            switch.compare(side, path, theirs.body)
                await switch.settled()
                return switch.counts.compared
            finally:
                await switch.close()


def _comparisons(desk: Desk) -> Verdict:
    session = phases.full_session(desk.since, desk.now)
    captures, torn = _taken_in(archive_of(desk.settings.home), session) if session else (set(), [])
    return gates.comparisons(session, captures, comparisons.latest(desk.dsn, _COMPARISONS), torn)


def _taken_in(archive: Archive, session: date) -> tuple[set[str], list[str]]:
    """The SHA-256 of the legacy captures that came in a session, and were taken in it by their own account.

    Besides, what came and says no moment, for it is torn: by name and when it came.
    """
    found, torn = set(), []
    for entry in entries(archive, CAPTURE.name, session, session):
        moment = capture_moment(archive.read(entry))
        if moment is None:
            torn.append(f"{entry.name} of {entry.at:%H:%M:%S} UTC")
        elif session_of(to_local(moment).date()) == session:
            found.add(entry.sha256)
    return found, torn


def _freshness(desk: Desk) -> Verdict:
    return gates.freshness(standing.freshness_of_tables(desk.context))


def _archive(desk: Desk) -> Verdict:
    deadline = time.monotonic() + desk.patience_s
    while True:
        verdict = gates.archive(standing.archived(desk.settings))
        if verdict.ok or time.monotonic() >= deadline:
            return verdict
        desk.sleep(0.5)


def _alerts(desk: Desk) -> Verdict:
    known = outbox.load(desk.settings.home).alerts.values()
    errors = [alert for alert in known if alert.severity == "ERROR"]
    return gates.alerts(errors, watched=alive(desk.settings.home, MONITOR))


def _backup(desk: Desk) -> Verdict:
    from b3_pipeline.backup.backups import newest_verified
    from b3_pipeline.identity import home_id

    found = newest_verified(backups_of(desk.settings), home_id(desk.settings.home))
    return gates.backup((found.id, found.at) if found else None, desk.now)


def _legacy_files(desk: Desk) -> Verdict:
    session = phases.full_session(desk.since, desk.now)
    return gates.legacy_files(session, written_in(desk, session) if session else {})


def written_in(desk: Desk, session: date) -> Mapping[str, bool]:
    """By legacy source that is collected and has ever brought something, whether it did in a session."""
    archive, wanted = archive_of(desk.settings.home), collected(desk.settings)
    known = [kind.name for kind in LEGACY_KINDS if kind.name in wanted and archive.last(kind.name)]
    return {name: any(True for _entry in entries(archive, name, session, session)) for name in known}


def _callers(desk: Desk) -> Verdict:
    since = phases.quiet_since(desk.now)
    return gates.callers(since, readers_since(desk.dsn, since))


def readers_since(dsn: str, since: date) -> list[callers.Caller]:
    """Who has called a legacy route since a session; our own look at whether it answers does not count."""
    return [caller for caller in callers.recent(dsn, since) if caller.agent != HEALTH_AGENT]


def _ideas_schema(desk: Desk) -> Verdict:
    from b3_pipeline.lowdb.schema import IDEAS_SCHEMA, ideas

    with ideas(desk.dsn) as db:
        return gates.ideas_schema(IDEAS_SCHEMA.version(db), IDEAS_SCHEMA.head())


def _ideas_parity(desk: Desk) -> Verdict:
    """What differs counts only if it does so still while nobody writes the files: a write may have been under way."""
    folder = levelling.folder_of(desk.settings)
    levelling.checksums(folder)
    found = levelling.parities(desk.dsn, _of_files(folder))
    if not all(parity.ok for parity in found.values()):
        with Files(folder, desk.settings.clock).held():
            found = _settled(desk, _of_files(folder), found)
    return gates.ideas_parity(found)


def _of_files(folder: Path) -> dict[str, list[Record]]:
    return levelling.records_of(levelling.read(levelling.paths_of(folder), levelling.MOVED_BYTES))


def _settled(desk: Desk, given: Mapping[str, list[Record]], found: Mapping[str, Parity]) -> dict[str, Parity]:
    """The numbers with what differs still of what differed, once the tables have what they were about to get."""
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while True:
        again = levelling.parities(desk.dsn, given, {table: set(parity.ids) for table, parity in found.items()})
        if all(parity.ok for parity in again.values()) or time.monotonic() >= deadline:
            return {table: replace(parity, source_keys=found[table].source_keys) for table, parity in again.items()}
        desk.sleep(0.1)


def _ideas_mismatches(desk: Desk) -> Verdict:
    return gates.ideas_mismatches(mismatches.open_count(desk.dsn, desk.domain))


def _ideas_comparisons(desk: Desk) -> Verdict:
    since = desk.since
    return gates.ideas_comparisons(compared.of_phase(desk.dsn, desk.domain, since) if since else compared.Counts())


def _ideas_files(desk: Desk) -> Verdict:
    taken = [
        step["checksums"]
        for step in migration_log.steps(desk.settings.home)
        if step["kind"] == "cutover"
        and step["outcome"] == "done"
        and FILE_NAMES[0] in step["checksums"]
        and step["details"]["to"] == phases.ACTIVE
    ]
    now = levelling.checksums(levelling.folder_of(desk.settings))
    return gates.ideas_files(taken[-1] if taken else {}, now)


_SAFE: Mapping[str, Callable[[Desk], Verdict]] = {"alerts": _alerts, "backup": _backup}
#: By domain how each gate is looked at.
LOOKS: Mapping[str, Mapping[str, Callable[[Desk], Verdict]]] = {
    MARKET: {
        "schema": _schema,
        "parity": _parity,
        "last_session": _last_session,
        "mismatches": _mismatches,
        "comparisons": _comparisons,
        "freshness": _freshness,
        "archive": _archive,
        "legacy_files": _legacy_files,
        "callers": _callers,
        **_SAFE,
    },
    IDEAS: {
        "schema": _ideas_schema,
        "parity": _ideas_parity,
        "mismatches": _ideas_mismatches,
        "comparisons": _ideas_comparisons,
        "files": _ideas_files,
        **_SAFE,
    },
}


def document(phase: str, found: Iterable[Gate]) -> dict[str, Any]:
    """The JSON of `b3 cutover status` and `advance`."""
    return {"phase": phase, "gates": [gate.document() for gate in found]}
