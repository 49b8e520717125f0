"""Exports of the raw archive: closed months copied elsewhere and proven there, and only then pruned here.

An export folder has the archive's own form, so it can be read, verified and replayed like one, and a manifest for each
stretch of entries that was brought there.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from b3_pipeline.durable import make_folder, sync, write_synced
from b3_pipeline.errors import B3Error, UsageError
from b3_pipeline.progress import SILENT, Report
from b3_pipeline.sources.archive import Archive, ArchiveDamaged, Entry

_EXPORTED = "exported.json"
_BLOCK = 1 << 20


class ExportFailed(B3Error):
    """An export is not what it should be: nothing counts as exported by it."""


@dataclass(frozen=True)
class Stretch:
    """Entries of a source from `first` to `last`, all of one month, that lie in a folder under a manifest."""

    source: str
    month: str  # 2025-10, UTC
    first: int
    last: int
    bytes: int
    folder: str
    manifest: str
    sha256: str  # the manifest's


@dataclass(frozen=True)
class Pruned:
    """What was taken out of a source: entries from `first` to `last` (none when `last` lies below), payloads, bytes."""

    source: str
    first: int
    last: int
    payloads: int
    bytes: int
    kept_for: str  # why the next entry stays

    @property
    def entries(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Fault:
    """What is wrong with an entry."""

    source: str
    seq: int
    problem: str


def exported(archive: Archive, source: str) -> list[Stretch]:
    """What of a source lies in exports, in order."""
    try:
        given = json.loads((archive.place(source) / _EXPORTED).read_bytes())
        return [Stretch(**stretch) for stretch in given["stretches"]]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        raise ExportFailed(f"{archive.place(source) / _EXPORTED} cannot be read: {error}.") from error


def export(archive: Archive, folder: Path, now: datetime, report: Report = SILENT) -> list[Stretch]:
    """Copies the months before that of `now` (UTC) that are in no export yet, and reads them back.

    Raises UsageError for a folder within the archive, ExportFailed, ArchiveDamaged when the archive itself is not whole.
    """
    if folder.resolve().is_relative_to(archive.folder.resolve()):
        raise UsageError(f"{folder} lies in the archive itself: export to another place, best to another disk.")
    return [
        stretch
        for source in archive.sources()
        for stretch in _export_source(archive, source, folder.absolute(), f"{now.astimezone(UTC):%Y-%m}", report)
    ]


def _export_source(archive: Archive, source: str, folder: Path, month: str, report: Report) -> Iterator[Stretch]:
    done = exported(archive, source)
    upto = done[-1].last if done else 0
    for its, entries in groupby(archive.after(source, upto), key=lambda e: f"{e.at:%Y-%m}"):
        if its >= month:  # later entries may be older where a clock was set back: they wait, too
            return
        listed = list(entries)
        report(f"Exporting {source} {its}: entries {listed[0].seq} to {listed[-1].seq}.")
        stretch = _export_stretch(archive, source, folder, its, listed)
        done.append(stretch)
        _write(archive.place(source) / _EXPORTED, {"stretches": [vars(each) for each in done]})
        yield stretch


def _export_stretch(archive: Archive, source: str, folder: Path, month: str, entries: Sequence[Entry]) -> Stretch:
    target = Archive(folder)
    files: dict[str, dict[str, Any]] = {}
    for entry in entries:
        archive.read(entry)  # what is damaged here must not pass for an export
        for path in (archive.payload_path(entry), archive.entry_path(entry)):
            name = path.relative_to(archive.folder).as_posix()
            if name not in files:
                files[name] = _copy(path, folder / name)
    for name in {str(Path(name).parent) for name in files}:
        sync(folder / name)
    first, last = entries[0].seq, entries[-1].seq
    manifest = target.place(source) / f"manifest-{first:09d}-{last:09d}.json"
    facts = {"source": source, "month": month, "first": first, "last": last}
    _write(manifest, {**facts, "entries": len(entries), "files": files})
    size = sum(file["size"] for file in files.values())
    stretch = Stretch(source, month, first, last, size, str(folder), manifest.name, _hash(manifest))
    require_export(stretch, set(range(first, last + 1)))
    return stretch


def require_export(stretch: Stretch, seqs: set[int]) -> None:
    """Reads those entries of an export back, payloads and all. Raises ExportFailed when one is not there as it was."""
    place = Path(stretch.folder) / stretch.source
    where = f"The export of {stretch.source} {stretch.month} in {stretch.folder}"
    target = Archive(Path(stretch.folder))
    try:
        if _hash(place / stretch.manifest) != stretch.sha256:
            raise ExportFailed(f"{where} has another manifest than was written.")
        files = json.loads((place / stretch.manifest).read_bytes())["files"]
        for seq in sorted(seqs):
            entry = target.entry(stretch.source, seq)
            if entry is None:
                raise ExportFailed(f"{where} has no entry {seq}.")
            for path in (target.entry_path(entry), target.payload_path(entry)):
                name = path.relative_to(target.folder).as_posix()
                if _hash(path) != files[name]["sha256"]:
                    raise ExportFailed(f"{where} has another {name} than was written.")
            with target.open(entry) as content:
                while content.read(_BLOCK):
                    pass
    except (OSError, ArchiveDamaged, KeyError, ValueError) as error:
        raise ExportFailed(f"{where} cannot be read: {error}") from error


def prune(archive: Archive, source: str, before: date, loaded: Callable[[str], int]) -> Pruned:
    """Removes the oldest entries that were received before that day (UTC), are loaded, and lie in an export still.

    `loaded` gives up to which entry a source is loaded. The newest entry always stays, and so do payloads that another
    entry has. Raises ExportFailed when an export is gone or another than it was, ArchiveDamaged when an entry is missing
    or cannot be read; then nothing is removed.
    """
    with archive.locked(source):
        first, upto, why = archive.first(source), loaded(source), "there is none"
        stretches = exported(archive, source)
        last = first - 1
        for entry in archive.after(source, first - 1):
            if why := _needed(archive, entry, before, upto, stretches):
                break
            last = entry.seq
        for stretch in stretches:
            if seqs := set(range(max(first, stretch.first), min(last, stretch.last) + 1)):
                require_export(stretch, seqs)
        freed = archive.remove_first(source, last)
    return Pruned(source, first, last, *freed, why)


def _needed(archive: Archive, entry: Entry, before: date, loaded: int, stretches: Sequence[Stretch]) -> str:
    """Why an entry must stay; "" when it need not."""
    if entry.seq == archive.last(entry.source):
        return "it is the newest"
    if entry.at.astimezone(UTC).date() >= before:
        return f"it came on {entry.at:%Y-%m-%d}"
    if entry.seq > loaded:
        return "it is not loaded yet"
    if not any(stretch.first <= entry.seq <= stretch.last for stretch in stretches):
        return "it is in no export"
    return ""


def verify(archive: Archive, source: str) -> Iterator[Fault]:
    """Reads all of a source back; gives what is damaged, missing, or breaks the sequence."""
    for seq in range(archive.first(source), archive.last(source) + 1):
        try:
            entry = archive.entry(source, seq)
            if entry is None:
                yield Fault(source, seq, "there is no such entry, but later ones")
                continue
            with archive.open(entry) as content:
                while content.read(_BLOCK):
                    pass
        except ArchiveDamaged as error:
            yield Fault(source, seq, str(error))


def _copy(path: Path, target: Path) -> dict[str, Any]:
    """Copies a file, safe on disk, unless the same is there; gives its size and hash.

    Raises ExportFailed when another entry is there.
    """
    facts = {"size": path.stat().st_size, "sha256": _hash(path)}
    if target.suffix == ".json" and target.exists() and _hash(target) != facts["sha256"]:
        raise ExportFailed(f"{target} is there already and is another: the folder has another archive's export in it.")
    if not (target.exists() and _hash(target) == facts["sha256"]):
        make_folder(target.parent)
        draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            with path.open("rb") as given, draft.open("xb") as file:
                shutil.copyfileobj(given, file, _BLOCK)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    return facts


def _write(path: Path, document: object) -> None:
    """Puts a JSON document in place, whole and safe on disk."""
    make_folder(path.parent)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    write_synced(draft, (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode())
    draft.replace(path)
    sync(path.parent)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
