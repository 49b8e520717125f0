"""The raw archive: what sources gave, as received, append-only, one sequence 1, 2, 3 … a source.

A source's folder holds an entry a JSON file, a payload a gzip file under its hash, and `drafts`, the journal of the
append that is going on: what a crash left there is finished or taken back by the next append. An entry appears under its
final name only after it and its payload are safe on disk, so readers need no lock and never see half of one.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import re
import secrets
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from b3_pipeline.durable import make_folder, sync, write_synced
from b3_pipeline.errors import B3Error

FOLDER = "archive"  # under the home
LOCK_TIMEOUT_S = 60
REFUSED_KEPT = 20
REFUSED_LIMIT = 8 << 20  # of a refused answer no more bytes than these are kept
_BLOCK = 1 << 20
_PER_FOLDER = 1_000
_INDEX_EVERY = 1_000  # entries that a cold start reads at most
_NAMES_KEPT = 100_000  # most names are met once only
_SOURCE = re.compile(r"[a-z0-9_]+")


class ArchiveFailed(B3Error):
    """The archive could not be written. Nothing was acknowledged."""


class ArchiveFull(ArchiveFailed):
    """There is no room for another payload."""


class ArchiveDamaged(B3Error):
    """An entry or a payload is not what was written."""


@dataclass(frozen=True)
class Entry:
    """One payload of a source as it was received: `at` aware UTC by the settings' clock, hash and size of the raw bytes."""

    source: str
    seq: int
    name: str
    at: datetime
    sha256: str
    size: int
    url: str | None = None
    status: int | None = None
    session: date | None = None
    etag: str | None = None
    last_modified: str | None = None
    content_type: str | None = None

    def to_json(self) -> bytes:
        """The entry's file."""
        texts = {"at": self.at.isoformat(), "session": self.session.isoformat() if self.session else None}
        return (json.dumps({**asdict(self), **texts}, ensure_ascii=False, indent=1) + "\n").encode()

    @classmethod
    def of_json(cls, content: bytes) -> Entry:
        """The entry in a file. Raises ValueError, TypeError or KeyError when there is none in it."""
        given = json.loads(content)
        session = date.fromisoformat(given["session"]) if given["session"] else None
        return cls(**{**given, "at": datetime.fromisoformat(given["at"]), "session": session})


class Archive:
    """The archive in a folder, for any number of reading and writing processes; writers of one source take turns.

    `step` is told after each step of an append what has been done; tests end the process there. A writer waits
    `patience_s` for another.
    """

    def __init__(
        self, folder: Path, step: Callable[[str], None] = lambda _done: None, patience_s: float = LOCK_TIMEOUT_S
    ) -> None:
        self.folder = folder
        self._step, self._patience_s = step, patience_s
        self._last: dict[str, int] = {}  # by source: the newest entry that was seen
        self._names: dict[str, _Names] = {}

    def append(
        self,
        source: str,
        content: bytes | BinaryIO,
        *,
        name: str,
        at: datetime,
        url: str | None = None,
        status: int | None = None,
        session: date | None = None,
        etag: str | None = None,
        last_modified: str | None = None,
        content_type: str | None = None,
    ) -> Entry | None:
        """Appends a payload; it is safe on disk when this returns. None: the newest entry of that name has the same bytes.

        Raises ArchiveFull or ArchiveFailed; then nothing is acknowledged, and the same call is right to be made again.
        """
        facts = {"url": url, "status": status, "session": session}
        facts |= {"etag": etag, "last_modified": last_modified, "content_type": content_type}
        with self._writing(source) as place:
            known = self._known(place).newest.get(name)
            if isinstance(content, bytes) and known == hashlib.sha256(content).hexdigest():
                return None
            part, sha256, size = place.write_part(io.BytesIO(content) if isinstance(content, bytes) else content)
            self._step("payload written")
            if known == sha256:
                part.unlink()
                return None
            seq = self.last(source) + 1
            self._place_payload(place, part, seq, sha256)
            entry = Entry(source, seq, name, at.astimezone(UTC), sha256, size, **facts)
            self._place_entry(place, entry)
            place.clear_drafts()
            self._step("drafts cleared")
            self._known(place)  # takes note of what was just written
        return entry

    def entry(self, source: str, seq: int) -> Entry | None:
        """One entry; None when there is none yet, or no longer. Raises ArchiveDamaged."""
        return self._place(source).entry(seq)

    def after(self, source: str, seq: int) -> Iterator[Entry]:
        """The entries after `seq`, in order, as far as there are any now; from the oldest kept one on where more is gone.

        Raises ArchiveDamaged at an entry that cannot be read.
        """
        place = self._place(source)
        if not place.entry_file(seq + 1).exists() and not (seq and place.entry_file(seq).exists()):
            seq = max(seq, self.first(source) - 1)
        while entry := place.entry(seq + 1):
            yield entry
            seq = entry.seq

    def first(self, source: str) -> int:
        """The sequence of the oldest entry that is kept; 1 when there is none."""
        return self._place(source).edge(min) or 1

    def last(self, source: str) -> int:
        """The sequence of the newest entry; 0 when there is none."""
        place = self._place(source)
        seq = self._last.get(source, 0)
        if not (seq and place.entry_file(seq).exists()):
            seq = place.edge(max)
        while place.entry_file(seq + 1).exists():
            seq += 1
        self._last[source] = seq
        return seq

    def newest(self, source: str) -> Entry | None:
        """The newest entry. Raises ArchiveDamaged."""
        seq = self.last(source)
        return self.entry(source, seq) if seq else None

    def written(self, source: str) -> float | None:
        """When the newest entry was made, by the disk's clock (seconds since the epoch); None when there is none."""
        seq = self.last(source)
        return self._place(source).entry_file(seq).stat().st_mtime if seq else None

    def has(self, source: str, sha256: str) -> bool:
        """Whether these bytes were ever archived for the source, under any name, and are kept."""
        return self._place(source).payload_file(sha256).exists()

    def read(self, entry: Entry) -> bytes:
        """The payload's raw bytes, verified. Raises ArchiveDamaged."""
        with self.open(entry) as stream:
            return stream.read()

    def open(self, entry: Entry) -> BinaryIO:
        """A stream over the payload's raw bytes. It raises ArchiveDamaged, at its end at the latest, when they are others."""
        path = self._place(entry.source).payload_file(entry.sha256)
        try:
            return io.BufferedReader(_Verified(entry, path), _BLOCK)
        except OSError as error:
            raise _damaged(entry, f"its payload cannot be read ({error.strerror or error})") from error

    def sources(self) -> list[str]:
        """The sources that have entries, by name."""
        return sorted(p.parent.name for p in self.folder.glob("*/entries"))

    def entry_path(self, entry: Entry) -> Path:
        """Where an entry lies."""
        return self._place(entry.source).entry_file(entry.seq)

    def payload_path(self, entry: Entry) -> Path:
        """Where its payload lies, compressed."""
        return self._place(entry.source).payload_file(entry.sha256)

    def place(self, source: str) -> Path:
        """The folder of a source."""
        return self._place(source).folder

    def recover(self, source: str) -> None:
        """Finishes or takes back what a crashed append left, as the next append would."""
        with self._writing(source):
            pass

    @contextmanager
    def locked(self, source: str) -> Iterator[None]:
        """Holds the source for as long as the block lasts: nobody else appends, and no crashed append has left anything.

        Raises OSError when another holds it for longer than one is ready to wait.
        """
        place = self._place(source)
        make_folder(place.drafts)
        with FileLock(place.folder / "lock", timeout=self._patience_s):
            self._recover(place)
            yield

    def remove_first(self, source: str, last: int) -> tuple[int, int]:
        """Removes the entries up to `last`, and payloads that no entry has any more; gives how many of these, and bytes.

        For whoever holds the source; the newest entry must stay. Oldest first, so that a crash leaves no gap: the next
        call finds the payloads that it left. Raises ArchiveDamaged, and removes nothing, when an entry that is to stay
        cannot be read or is missing: whose payloads are needed is not known then.
        """
        place = self._place(source)
        entries = place.sequence()
        needed = {entry.sha256 for entry in entries if entry.seq > last}
        for seq in (entry.seq for entry in entries if entry.seq <= last):
            place.entry_file(seq).unlink(missing_ok=True)
            if seq % _PER_FOLDER == _PER_FOLDER - 1:
                with suppress(OSError):
                    place.entry_file(seq).parent.rmdir()
        unneeded = [p for p in (place.folder / "payloads").glob("*/*.gz") if p.stem not in needed]
        size = sum(path.stat().st_size for path in unneeded)
        for path in unneeded:
            path.unlink()
        return len(unneeded), size

    def keep_refused(self, source: str, content: bytes, at: datetime, problem: str) -> None:
        """Keeps an answer that was refused, beside the reason; of all those the last 20, and the same once in a row."""
        folder = self._place(source).folder / "refused"
        folder.mkdir(parents=True, exist_ok=True)
        sha256 = hashlib.sha256(content).hexdigest()
        kept = sorted(folder.glob("*.json"))
        if kept and kept[-1].stem.endswith(sha256[:16]):
            return
        path = folder / f"{at.astimezone(UTC):%Y%m%dT%H%M%S%f}-{sha256[:16]}"
        path.with_suffix(".bin").write_bytes(content[:REFUSED_LIMIT])
        facts = {"at": at.isoformat(), "problem": problem, "sha256": sha256, "size": len(content)}
        path.with_suffix(".json").write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", "utf-8")
        for old in [*kept, path][:-REFUSED_KEPT]:
            for suffix in (".json", ".bin"):
                old.with_suffix(suffix).unlink(missing_ok=True)

    @contextmanager
    def _writing(self, source: str) -> Iterator[_Place]:
        """The source, held; what goes wrong with its disk is said in a sentence."""
        place = self._place(source)
        try:
            with self.locked(source):
                try:
                    yield place
                except BaseException:
                    place.clear_parts()
                    raise
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ArchiveFull(
                    f"No room to archive what {source} gave: {reason}. Make room in {self.folder}, or export and prune "
                    "old months with `b3 archive`."
                ) from error
            raise ArchiveFailed(f"What {source} gave could not be archived in {self.folder}: {reason}.") from error

    def _place_payload(self, place: _Place, part: Path, seq: int, sha256: str) -> None:
        """Puts a written payload under its hash, unless these bytes are there; the draft says which append it is of."""
        final = place.payload_file(sha256)
        if final.exists():
            part.unlink()
            return
        draft = place.drafts / f"{seq:09d}-{sha256}.gz"
        part.replace(draft)
        sync(place.drafts)
        self._step("payload drafted")
        make_folder(final.parent)
        os.link(draft, final)
        self._step("payload linked")
        sync(final.parent)
        self._step("payload safe")

    def _place_entry(self, place: _Place, entry: Entry) -> None:
        """Makes an entry, whose payload is safe, visible; from its draft on, a crash no longer takes it back."""
        part = place.drafts / f"{secrets.token_hex(8)}.part"
        write_synced(part, entry.to_json())
        self._step("entry written")
        draft = place.drafts / f"{entry.seq:09d}.json"
        part.replace(draft)
        self._step("entry drafted")
        sync(place.drafts)  # a reader may act on the entry before its folder is safe: it must not be gone then
        self._step("draft safe")
        place.publish(draft, entry.seq, self._step)

    def _recover(self, place: _Place) -> None:
        """Takes back the payload of an append that has no entry, and finishes one that has its draft."""
        left = sorted(place.drafts.iterdir())
        for draft in left:
            if draft.suffix == ".json" and int(draft.stem) == self.last(place.source) + 1:
                place.publish(draft, int(draft.stem), self._step)
        for draft in left:
            if draft.suffix == ".gz":
                seq, sha256 = draft.stem.split("-")
                if int(seq) > self.last(place.source):
                    place.payload_file(sha256).unlink(missing_ok=True)
        for draft in left:
            draft.unlink(missing_ok=True)

    def _known(self, place: _Place) -> _Names:
        """The newest content of each name, as of now; for whoever holds the source."""
        names = self._names.get(place.source)
        if names is None or names.upto > self.last(place.source):  # another archive took its place
            names = _Names.read(place.folder / "index.json", self.last(place.source))
        for seq in range(max(names.upto + 1, self.first(place.source)), self.last(place.source) + 1):
            names.upto = seq
            with suppress(ArchiveDamaged):  # what comes in now is archived all the same
                if entry := place.entry(seq):
                    names.note(entry)
            if seq % _INDEX_EVERY == 0:
                names.write(place.folder / "index.json")
        self._names[place.source] = names
        return names

    def _place(self, source: str) -> _Place:
        if not _SOURCE.fullmatch(source):
            raise ValueError(f"{source!r} is no source's name")
        return _Place(source, self.folder / source)


@dataclass(frozen=True)
class _Place:
    """Where things of a source lie."""

    source: str
    folder: Path

    @property
    def drafts(self) -> Path:
        return self.folder / "drafts"

    def entry_file(self, seq: int) -> Path:
        return self.folder / "entries" / f"{seq // _PER_FOLDER:06d}" / f"{seq:09d}.json"

    def payload_file(self, sha256: str) -> Path:
        return self.folder / "payloads" / sha256[:2] / f"{sha256}.gz"

    def entry(self, seq: int) -> Entry | None:
        path = self.entry_file(seq)
        try:
            entry = Entry.of_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ArchiveDamaged(f"The archive's entry {path} cannot be read: {error}.") from error
        if (entry.source, entry.seq) != (self.source, seq):
            raise ArchiveDamaged(f"The archive's entry {path} is that of {entry.source} {entry.seq}.")
        return entry

    def sequence(self) -> list[Entry]:
        """All entries, in order. Raises ArchiveDamaged when one cannot be read or is missing."""
        seqs = sorted(int(p.stem) for p in (self.folder / "entries").glob("*/*.json") if p.stem.isdecimal())
        entries = []
        for seq in range(seqs[0], seqs[-1] + 1) if seqs else ():
            if (entry := self.entry(seq)) is None:
                raise ArchiveDamaged(
                    f"The archive has no entry {self.source} {seq}, but later ones: `b3 archive verify` lists all that are "
                    "missing; take them from an export."
                )
            entries.append(entry)
        return entries

    def edge(self, choose: Callable[[Any], int]) -> int:
        """The oldest (min) or newest (max) sequence; 0 when there is none."""
        folders = {int(p.name): p for p in _listed(self.folder / "entries") if p.name.isdecimal()}
        while folders:  # pruning and a crash leave empty folders
            folder = folders.pop(choose(folders))
            if found := [int(p.stem) for p in _listed(folder) if p.suffix == ".json" and p.stem.isdecimal()]:
                return choose(found)
        return 0

    def write_part(self, stream: BinaryIO) -> tuple[Path, str, int]:
        """Writes a payload aside, compressed and safe; gives the file, the hash and the size of the raw bytes."""
        part = self.drafts / f"{secrets.token_hex(8)}.part"
        digest, size = hashlib.sha256(), 0
        with part.open("xb") as file:
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    size += len(block)
                    packed.write(block)
            file.flush()
            os.fsync(file.fileno())
        return part, digest.hexdigest(), size

    def publish(self, draft: Path, seq: int, step: Callable[[str], None]) -> None:
        """Gives a drafted entry its final name. A link never replaces what another writer put there."""
        final = self.entry_file(seq)
        make_folder(final.parent)
        os.link(draft, final)
        step("entry linked")
        sync(final.parent)
        step("entry safe")

    def clear_drafts(self) -> None:
        for draft in self.drafts.iterdir():
            draft.unlink(missing_ok=True)

    def clear_parts(self) -> None:
        """Frees the room that an append took that failed."""
        with suppress(OSError):
            for part in self.drafts.glob("*.part"):
                part.unlink(missing_ok=True)


class _Names:
    """By name of payloads, the hash of the newest one, as of the entry `upto`: so that a cold start reads few entries."""

    def __init__(self, upto: int = 0, newest: dict[str, str] | None = None) -> None:
        self.upto, self.newest = upto, newest or {}

    @classmethod
    def read(cls, file: Path, last: int) -> _Names:
        """What a file holds, or nothing where it cannot be of this archive."""
        try:
            names = cls(**json.loads(file.read_bytes()))
        except (OSError, ValueError, TypeError):
            return cls()
        return names if names.upto <= last else cls()

    def note(self, entry: Entry) -> None:
        """Takes note of the newest entry. Beyond so many names the ones that were met longest ago are forgotten."""
        self.newest.pop(entry.name, None)
        self.newest[entry.name] = entry.sha256
        while len(self.newest) > _NAMES_KEPT:
            del self.newest[next(iter(self.newest))]

    def write(self, file: Path) -> None:
        """Puts the file in place; it is only a shortcut, so nobody waits for the disk."""
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        with suppress(OSError):
            draft.write_text(json.dumps({"upto": self.upto, "newest": self.newest}, ensure_ascii=False), "utf-8")
            draft.replace(file)


class _Verified(io.RawIOBase):
    """Reads a payload and proves, at its end, that it is what was archived."""

    def __init__(self, entry: Entry, path: Path) -> None:
        self._entry, self._left = entry, entry.size
        self._file = path.open("rb")
        self._packed = gzip.GzipFile(fileobj=self._file)
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            block = self._packed.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise _damaged(self._entry, f"its payload cannot be unpacked ({error})") from error
        self._hash.update(block)
        self._left -= len(block)
        if self._left < 0 or (not block and (self._left or self._hash.hexdigest() != self._entry.sha256)):
            raise _damaged(self._entry, "its payload has other bytes")
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._file.close()
        super().close()


def _damaged(entry: Entry, why: str) -> ArchiveDamaged:
    return ArchiveDamaged(
        f"Archive entry {entry.source} {entry.seq} ({entry.name}) is damaged: {why}. `b3 archive verify` lists all that are."
    )


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
