"""Payloads out of the raw archive: which are next, and loading them in their order."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from itertools import takewhile
from pathlib import Path

from b3_pipeline.errors import B3Error
from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.load import Loader, LoadReport
from b3_pipeline.loading.payloads import Found, Payload
from b3_pipeline.parsing.kinds import MARKET_KINDS, Kind
from b3_pipeline.questdb import schema
from b3_pipeline.sessions import session_of, to_local
from b3_pipeline.sources.archive import FOLDER, Archive, Entry
from b3_pipeline.tables import TABLES

_LOADED = "loaded.json"
KINDS = {kind.name: kind for kind in MARKET_KINDS}


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


def payload_of(archive: Archive, entry: Entry, *, superseded: bool = False, pending: bool = False) -> Payload:
    """An entry as the payload that was received: its bytes are read when they are needed, and proven then."""
    return Payload(
        entry.name,
        archive.payload_path(entry),
        KINDS[entry.source],
        entry.sha256,
        entry.size,
        opened=partial(archive.open, entry),
        superseded=superseded,
        pending=pending,
    )


def drain(loader: Loader, archive: Archive, source: str, after: int, enough: Callable[[], bool]) -> Drained:
    """Loads a source's entries that follow `after`, in their order, until there are no more or it is `enough`.

    An entry counts, and is noted, when each of its tables has acknowledged it, or has rejected it as a whole. What was
    noted before, by a turn that ended before its cursor was kept, is read again and changes nothing: no older state of
    a file takes the place of a newer one. Raises QuestDBError when the server is away before the first of them.
    """
    done = Drained(max(after, archive.first(source) - 1))
    kind, noted = KINDS[source], loaded_upto(archive, source)
    for name in kind.tables if archive.entry(source, done.seq + 1) else ():
        schema.require(loader.db, TABLES[name])
    newest = _read_before(loader, archive, source, done.seq, noted) if noted > done.seq else {}
    for entry in archive.after(source, done.seq):
        payload = payload_of(archive, entry, superseded=entry.seq < newest.get(entry.name, 0))
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
        if reports[-1].outcome == "failed":
            return reports, reports[-1].reason
    return reports, None


def entries(archive: Archive, source: str, first: date | None = None, last: date | None = None) -> Iterator[Entry]:
    """The entries of a source that were received for the sessions from `first` to `last`, in their order."""
    for entry in archive.after(source, archive.first(source) - 1):
        day = entry.session or session_of(to_local(entry.at).date())
        if (first is None or day >= first) and (last is None or day <= last):
            yield entry


def found(
    archive: Archive, sources: Iterable[str] = (), first: date | None = None, last: date | None = None
) -> list[Found]:
    """The archive's payloads as files, source by source in the order of `MARKET_KINDS`, each in its own order."""
    wanted = set(sources) or set(archive.sources())
    files = []
    for name in (kind.name for kind in MARKET_KINDS if kind.name in wanted):
        reached = loaded_upto(archive, name)
        mine = list(entries(archive, name, first, last))
        newest = {entry.name: entry.seq for entry in mine}
        payloads = (payload_of(archive, e, superseded=e.seq < newest[e.name], pending=e.seq > reached) for e in mine)
        files += [Found(payload.name, KINDS[name], payload) for payload in payloads]
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
