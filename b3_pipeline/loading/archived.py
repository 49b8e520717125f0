"""Payloads out of the raw archive: which are next, and loading them in their order."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import partial
from itertools import takewhile
from pathlib import Path

from filelock import FileLock, Timeout

from b3_pipeline.errors import B3Error
from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.load import Loader, LoadReport, quiet
from b3_pipeline.loading.payloads import Found, Payload
from b3_pipeline.parsing.kinds import ARCHIVED_KINDS, Kind
from b3_pipeline.questdb import schema
from b3_pipeline.sessions import ALWAYS, session_of, to_local
from b3_pipeline.sources.archive import FOLDER, Archive, ArchiveDamaged, Entry
from b3_pipeline.tables import TABLES

_LOADED, _LOCK = "loaded.json", "loading.lock"
#: Entries are looked at so much farther back than asked: clocks are set, and a session's data may come the night before.
_MARGIN = timedelta(days=2)
KINDS = {kind.name: kind for kind in ARCHIVED_KINDS}


class SourceBusy(B3Error):
    """A source's entries are being loaded by another tick."""


@dataclass
class Drained:
    """What came of reading on in the archive: up to which entry all is safely stored, and each load's report.

    `problem` says why the next entry could not be loaded: it stays next.
    """

    seq: int
    reports: list[LoadReport] = field(default_factory=list)
    problem: str | None = None


def archive_of(home: Path) -> Archive:
    """The raw archive of a home."""
    return Archive(home / FOLDER)


def payload_of(
    archive: Archive, entry: Entry, *, replaces: frozenset[str] | None = None, pending: bool = False
) -> Payload:
    """An entry as the payload that was received: its bytes are read when they are needed, and proven then."""
    return Payload(
        entry.name,
        archive.payload_path(entry),
        KINDS[entry.source],
        entry.sha256,
        entry.size,
        opened=partial(archive.open, entry),
        replaces=replaces,
        pending=pending,
    )


def drain(loader: Loader, archive: Archive, source: str, after: int, enough: Callable[[], bool]) -> Drained:
    """Loads a source's entries that follow `after`, in their order, until there are no more or it is `enough`.

    An entry counts, and is noted, when each of its tables has acknowledged all of it, or has rejected it as a whole; where
    the export of an expired time cannot be read it stays next, and what else was new in it is written. What was
    noted before, by a turn that ended before its cursor was kept, is read again and changes nothing: no older state of
    a file takes the place of a newer one. Raises QuestDBError when the server is away before the first of them,
    SourceBusy while another drains the same source, and ArchiveDamaged where the sequence has a hole.
    """
    try:
        with FileLock(archive.place(source) / _LOCK, timeout=0):
            done = _drain(replace(loader, follow=quiet), archive, source, after, enough)
            loader.follow(done.reports)
            return done
    except Timeout:
        raise SourceBusy(f"What came of {source} is being loaded just now.") from None


def following(archive: Archive, source: str, after: int) -> Entry | None:
    """The entry that follows `after`; None when all of them are loaded.

    Raises ArchiveDamaged when the archive has lost it, or is not the one that was loaded from.
    """
    entry = archive.entry(source, max(after + 1, archive.first(source)))
    last = archive.last(source) if entry is None else after
    if last > after:
        entry = archive.entry(source, after + 1)  # it may have come meanwhile
    if entry is None and last > after:
        raise ArchiveDamaged(
            f"The archive of {source} has entries up to {last}, but not entry {after + 1}: a file is gone from it. Put it "
            "back from an export or a backup; what follows it waits, so that nothing is left out."
        )
    if last < after:
        raise ArchiveDamaged(
            f"The archive of {source} ends with entry {last}, but all up to {after} was loaded: it was put back from an "
            f"older state, or is another home's. Set the cursor of load_{source} to {last} (Dagster: Automation) when "
            "that is meant; nothing is loaded twice."
        )
    return entry


def _drain(loader: Loader, archive: Archive, source: str, after: int, enough: Callable[[], bool]) -> Drained:
    done = Drained(max(after, archive.first(source) - 1))
    kind, noted = KINDS[source], loaded_upto(archive, source)
    for name in kind.tables if archive.entry(source, done.seq + 1) else ():
        schema.require(loader.db, TABLES[name])
    newest = _read_before(loader, archive, source, done.seq, noted) if noted > done.seq else {}
    for entry in archive.after(source, done.seq):
        outdated = entry.seq < newest.get(entry.name, 0)
        payload = payload_of(archive, entry, replaces=frozenset() if outdated else None)
        reports, problem = _load(loader, payload, kind)
        done.reports += reports
        if problem is not None:
            done.problem = f"{source}, entry {entry.seq} ({entry.name}): {problem}"
            break
        done.seq = entry.seq
        if entry.seq > noted:
            note_loaded(archive, source, entry.seq)
        if enough():
            break
    return done


def _read_before(loader: Loader, archive: Archive, source: str, after: int, noted: int) -> dict[str, int]:
    """By name, the newest of the entries after `after` that loads know of: those noted, and one that may have begun since."""
    kind, following = KINDS[source], archive.entry(source, noted + 1)
    begun = following and loader.ledger.known(following.sha256, kind.tables[0], kind.feed)
    last = noted + bool(begun)
    return {entry.name: entry.seq for entry in takewhile(lambda e: e.seq <= last, archive.after(source, after))}


def _load(loader: Loader, payload: Payload, kind: Kind) -> tuple[list[LoadReport], str | None]:
    reports: list[LoadReport] = []
    for name in kind.tables:
        try:
            reports += load_all(loader, [payload], TABLES[name], proven=True)
        except B3Error as error:  # the server is away: what was loaded so far stands
            return reports, str(error)
        if _stays_open(loader, reports[-1]):
            return reports, reports[-1].reason
    return reports, None


def _stays_open(loader: Loader, report: LoadReport) -> bool:
    """Whether records are still to be loaded that no later window asks for: their time's export cannot be read now."""
    return report.outcome == "failed" or (report.outcome == "partial" and loader.window == ALWAYS)


def entries(archive: Archive, source: str, first: date | None = None, last: date | None = None) -> Iterator[Entry]:
    """The entries of a source that were received for the sessions from `first` to `last`, in their order."""
    return (entry for entry in _since(archive, source, first) if _is_within(entry, first, last))


def _is_within(entry: Entry, first: date | None, last: date | None) -> bool:
    day = entry.session or session_of(to_local(entry.at).date())
    return (first is None or day >= first) and (last is None or day <= last)


def _since(archive: Archive, source: str, first: date | None) -> Iterable[Entry]:
    """The entries that may be of `first` or later, in their order.

    Nothing is received before its session: looked for from the newest one back, so that a tick's checks do not read an
    archive of years.
    """
    if first is None:
        return archive.after(source, archive.first(source) - 1)
    found: list[Entry] = []
    for seq in range(archive.last(source), archive.first(source) - 1, -1):
        entry = archive.entry(source, seq)
        if entry is None or to_local(entry.at).date() < first - _MARGIN:
            break
        found.append(entry)
    return reversed(found)


def found(
    archive: Archive, sources: Iterable[str] = (), first: date | None = None, last: date | None = None
) -> list[Found]:
    """The archive's payloads as files, source by source in the order of `ARCHIVED_KINDS`, each in its own order."""
    wanted = set(sources) or set(archive.sources())
    files = []
    for name in (kind.name for kind in ARCHIVED_KINDS if kind.name in wanted):
        reached, earlier = loaded_upto(archive, name), dict[str, frozenset[str]]()
        known = list(
            _since(archive, name, first)
        )  # also those after `last`: a range does not make an old state the newest
        newest = {entry.name: entry.seq for entry in known}
        for entry in known:
            before = earlier.get(entry.name, frozenset())
            earlier[entry.name] = before | {entry.sha256}
            if _is_within(entry, first, last):
                replaces = before if entry.seq == newest[entry.name] else frozenset()
                payload = payload_of(archive, entry, replaces=replaces, pending=entry.seq > reached)
                files.append(Found(payload.name, KINDS[name], payload))
    return files


def note_loaded(archive: Archive, source: str, seq: int) -> None:
    """Notes up to which entry a source is loaded, for those who do not ask Dagster; the sensor's cursor is what counts."""
    place = archive.place(source) / _LOADED
    draft = place.with_name(f".{_LOADED}.{os.getpid()}")
    draft.write_text(json.dumps({"seq": seq}), "utf-8")
    draft.replace(place)


def loaded_upto(archive: Archive, source: str) -> int:
    """Up to which entry a source is loaded: 0 before the first."""
    try:
        return int(json.loads((archive.place(source) / _LOADED).read_text("utf-8"))["seq"])
    except (OSError, ValueError, KeyError):
        return 0
