"""The inbox: a folder into which TP-Capital's bots put files of JSON lines; whole lines go into the raw archive, sealed.

A file is known by its identity, so a rotated one is read on under its new name. Each entry says of which file it is and
how far that is read with it: after a crash the archive itself tells where to go on, and no line is in it twice or not at
all. A file that was cut or written anew is read from its beginning. Nothing in the folder is ever changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from b3_pipeline.durable import make_folder
from b3_pipeline.errors import B3Error
from b3_pipeline.failpoints import reached
from b3_pipeline.metrics import instruments
from b3_pipeline.parsing.json_text import Object, decode
from b3_pipeline.parsing.kinds import SIGNALS
from b3_pipeline.parsing.records import FileRejected
from b3_pipeline.signals.hiding import without_secrets
from b3_pipeline.sources.archive import Archive, ArchiveDamaged, ArchiveFailed, Entry
from b3_pipeline.sources.collecting import Attempt, Outcome
from b3_pipeline.sources.state import State

SOURCE = SIGNALS.name
CONTENT_TYPE = "application/x-ndjson"
EVERY_S = 0.5
#: So much of a file is one entry at most; a line that is longer is none of ours, and only its beginning is kept.
BLOCK = 1 << 20
SHOWN_OF_LONG_LINE = 1_000  # bytes
_MARKS, _LOCK = "inbox.json", "inbox.lock"
_ENDS = 4_096  # bytes at either end of what was read, by which a file is known again
_MANY = 1_000  # files whose marks are kept
_TOLD = 5  # problems that are told at once
_NOTE_EVERY_S = 60.0
#: As the bots write them, and as rotation names them.
_NAME = re.compile(r"[^.\x00-\x1f][^\x00-\x1f]*\.jsonl([.-][0-9][0-9.-]*)?")

Stamp = tuple[int, ...]


class Unread(B3Error):
    """A file of the inbox, or the folder, cannot be read."""


@dataclass(frozen=True)
class Mark:
    """How far a file is archived: `offset` bytes, with `lines` line ends in them.

    `seen` is a hash of the ends of these bytes. `inside`: they end in a line that is too long, whose rest is passed over.
    """

    offset: int = 0
    lines: int = 0
    inside: bool = False
    seen: str = ""


def cut(block: bytes, mark: Mark) -> tuple[bytes, Mark]:
    """The whole lines that a block begins with, and the mark behind them (its `seen` is still to come).

    A last line without an end counts as whole when it is a JSON object: half of one never is. Of a line that is too long
    it gives the block that the line begins with; the mark is `inside` then.
    """
    start = 0
    if mark.inside:
        start = block.find(b"\n") + 1
        if not start:
            return b"", replace(mark, offset=mark.offset + len(block))
    end = block.rfind(b"\n") + 1
    if len(block) < BLOCK and _is_object(block[end:]):
        end = len(block)
    lines = mark.lines + block.count(b"\n", 0, end)
    if end == 0 and len(block) == BLOCK:
        return block, Mark(mark.offset + len(block), lines, inside=True)
    return block[start:end], Mark(mark.offset + max(start, end), lines)


def _is_object(line: bytes) -> bool:
    try:
        return line.endswith(b"}") and isinstance(decode(line).root, Object)
    except FileRejected:
        return False


class Inbox:
    """The files of a folder on their way into the archive; for one thread. Several processes take turns."""

    def __init__(
        self,
        folder: Path,
        archive: Archive,
        clock: Callable[[], datetime],
        tell: Callable[[str, str], None] = lambda _source, _message: None,
    ) -> None:
        self._folder, self._archive, self._clock, self._tell = folder, archive, clock, tell
        self._place = archive.place(SOURCE)
        self._marks: dict[str, Mark] = {}
        self._upto: int | None = None  # the entry up to which the marks know the archive
        self._stamps: dict[str, Stamp] = {}
        self._noted = 0.0

    def run(self, stop: threading.Event) -> None:
        """Collects until it is told to stop."""
        with suppress(ArchiveFailed, ArchiveDamaged):
            self._archive.recover(SOURCE)
        while not stop.is_set():
            self.collect()
            stop.wait(EVERY_S)

    def collect(self) -> Attempt:
        """Archives what is new now. Whatever goes wrong is in what it gives. Raises ClockDamaged."""
        before, new = self._archive.last(SOURCE), 0
        try:
            new = self.look()
        except B3Error as error:
            self._note(str(error), brought=self._archive.last(SOURCE) > before)
            return Attempt(SOURCE, Outcome.FAILED, problem=str(error))
        self._note(None, brought=new > 0)
        if not new:
            return Attempt(SOURCE, Outcome.UNCHANGED)
        return Attempt(SOURCE, Outcome.NEW, self._archive.newest(SOURCE))

    def look(self) -> int:
        """Archives what is new in every file, and says how many entries that made.

        One file that cannot be read keeps no other from being read. Raises Unread, ArchiveFailed, ArchiveDamaged.
        """
        new = 0
        make_folder(self._place)
        with FileLock(self._place / _LOCK):
            self._catch_up()
            files, problems = self._files()
            for path, stamp in files:
                if stamp == self._stamps.get(path.name):
                    continue
                try:
                    new += self._take(path)
                    self._stamps[path.name] = stamp
                except FileNotFoundError:  # rotated at this moment: it is met under its new name
                    continue
                except OSError as error:
                    problems.append(f"{path.name} of the inbox cannot be read: {error.strerror or error}.")
            self._keep_marks({f"{stamp[1]:x}" for _, stamp in files})
        if problems:
            raise Unread(" ".join(problems[:_TOLD]))
        return new

    def _files(self) -> tuple[list[tuple[Path, Stamp]], list[str]]:
        """The files that are there, each as it is now, and what is wrong with others; the last written come last.

        Raises Unread.
        """
        found: list[tuple[Path, Stamp]] = []
        problems: list[str] = []
        try:
            with os.scandir(self._folder) as every:
                for one in every:
                    try:
                        if stamp := _stamp(one):
                            found.append((Path(one.path), stamp))
                    except FileNotFoundError:  # rotated at this moment
                        continue
                    except (OSError, ValueError) as error:
                        reason = error.strerror if isinstance(error, OSError) else "its name is not UTF-8"
                        problems.append(f"{one.name!a} of the inbox cannot be read: {reason}.")
        except FileNotFoundError as error:
            if not self._folder.is_dir():
                raise Unread(f"The inbox {self._folder} is not there: make it, or correct B3_SIGNALS_INBOX.") from error
        except OSError as error:
            raise Unread(f"The inbox cannot be read: {error.strerror or error}.") from error
        return sorted(found, key=lambda file: (file[1], file[0].name)), sorted(problems)

    def _take(self, path: Path) -> int:
        """Archives what is new in a file; gives how many entries that made. Raises OSError, ArchiveFailed."""
        new = 0
        with path.open("rb") as file:
            identity, mark = self._begin(path, file)
            while True:
                file.seek(mark.offset)
                content, after = cut(file.read(BLOCK), mark)
                if after.offset == mark.offset:
                    return new
                after = replace(after, seen=_seen(file, after.offset))
                if content.strip() and self._append(path.name, identity, content, after):
                    new += 1
                self._marks[identity] = mark = after

    def _begin(self, path: Path, file: BinaryIO) -> tuple[str, Mark]:
        """Which file it is, and from where it is to be read."""
        now = os.fstat(file.fileno())
        identity = f"{now.st_dev:x}-{now.st_ino:x}"
        mark = self._marks.get(identity, Mark())
        if now.st_size < mark.offset or (mark.offset and _seen(file, mark.offset) != mark.seen):
            self._tell(SOURCE, f"{path.name} was cut or written anew: it is read from its beginning")
            mark = Mark()
        return identity, mark

    def _append(self, name: str, identity: str, content: bytes, after: Mark) -> Entry | None:
        """Archives lines without their secrets; None when the newest entry of that name has the same."""
        lines = content.split(b"\n")
        first = after.lines - len(lines) + 2  # the number of its first line
        sealed = b"\n".join(map(without_secrets, lines))
        if after.inside:  # only now: nobody knows half a token for one
            sealed = sealed[:SHOWN_OF_LONG_LINE]
        entry = self._archive.append(
            SOURCE,
            sealed,
            name=f"{name}@{first}",
            at=self._clock(),
            url=f"inbox:{name}",
            etag=json.dumps({"file": identity, **asdict(after)}),
            content_type=CONTENT_TYPE,
        )
        reached("inbox: entry appended")
        if entry:
            instruments.appended(SOURCE, entry.size)
            instruments.fetched(SOURCE, "new", 0)
            self._tell(SOURCE, f"new #{entry.seq} {entry.name} {entry.size} bytes")
        return entry

    def _catch_up(self) -> None:
        """Learns from the archive what was archived since the marks were kept: by a process that died, or another one."""
        if self._upto is None:
            self._marks, self._upto = _kept_marks(self._place / _MARKS)
        last = self._archive.last(SOURCE)
        if last < self._upto:  # put back from an older state
            self._marks, self._upto = {}, 0
        for entry in self._entries(max(self._upto + 1, self._archive.first(SOURCE)), last):
            if entry.etag:
                told = json.loads(entry.etag)
                name = told.pop("file")
                self._marks[name] = Mark(**told)
        self._upto = last

    def _entries(self, first: int, last: int) -> Iterator[Entry]:
        for seq in range(first, last + 1):
            entry = None
            with suppress(ArchiveDamaged):  # its lines are read again then, and count as duplicates
                entry = self._archive.entry(SOURCE, seq)
            if entry:
                yield entry

    def _keep_marks(self, there: set[str]) -> None:
        """Keeps the marks beside the archive, so that a start need not read all of it. They can be lost without harm.

        Those of files that are gone (`there` has the numbers of the others) are forgotten once there are many.
        """
        if len(self._marks) > _MANY:
            self._marks = {name: mark for name, mark in self._marks.items() if name.rpartition("-")[2] in there}
        upto = self._archive.last(SOURCE)
        content = json.dumps({"upto": upto, "files": {name: asdict(mark) for name, mark in self._marks.items()}})
        place, draft = self._place / _MARKS, self._place / f".{_MARKS}.{os.getpid()}"
        with suppress(OSError):
            if upto != self._upto or not place.exists():
                draft.write_text(content + "\n", "utf-8")
                draft.replace(place)
        self._upto = upto

    def _note(self, problem: str | None, *, brought: bool) -> None:
        """Keeps the source's state: at once when it is another one, else once a minute."""
        state = State.read(self._place)
        if not brought and problem == state.problem and time.monotonic() - self._noted < _NOTE_EVERY_S:
            return
        at = self._clock()
        state = state.brought(at) if brought else state.answered(at)
        (state.failed(at, problem) if problem else state).write(self._place)
        self._noted = time.monotonic()
        if problem:
            instruments.fetched(SOURCE, "failed", 0)
            self._tell(SOURCE, f"failed: {problem}")


def _stamp(one: os.DirEntry[str]) -> Stamp | None:
    """By what a change of a file shows; None for what is no file of ours. Raises OSError, ValueError for a bad name."""
    if not _NAME.fullmatch(one.name):
        return None
    one.name.encode()  # no entry of the archive can have another
    if not one.is_file():
        return None
    now = one.stat()
    return now.st_mtime_ns, now.st_ino, now.st_size


def _seen(file: BinaryIO, offset: int) -> str:
    """A hash of the first and the last bytes before an offset."""
    length = min(_ENDS, offset)
    file.seek(0)
    first = file.read(length)
    file.seek(offset - length)
    return hashlib.sha256(first + file.read(length)).hexdigest()[:16]


def _kept_marks(path: Path) -> tuple[dict[str, Mark], int]:
    """The marks that were kept, and the entry up to which they count; none where there is no such file."""
    try:
        kept = json.loads(path.read_bytes())
        return {name: Mark(**mark) for name, mark in kept["files"].items()}, int(kept["upto"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}, 0
