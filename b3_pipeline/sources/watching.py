"""Watching the legacy folder: each state that its JSON files have goes into the archive. Nothing in it is ever written.

Events say when a file was closed or moved into its place, and it is read at once, so that a state survives that is
overwritten within the second. A slow look at the files finds what no event told of; where none comes it is a quick one.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from b3_pipeline.loading.payloads import HISTORY_FOLDER
from b3_pipeline.metrics import instruments
from b3_pipeline.parsing.kinds import Kind
from b3_pipeline.sources.archive import Archive, ArchiveDamaged, ArchiveFailed, Entry
from b3_pipeline.sources.state import State

LOOK_EVERY_S = 2.0
QUICK_LOOK_S = 0.1
PATIENCE_S = 2.0  # how long a document may be half written
_NOTE_EVERY_S = 60.0
_ATTACH_EVERY_S = 60.0
_RETRY_S = 1.0
_LATE_S = 1.0  # a change this old, of which no event told, means that none will
_WAITING = 1_000  # states that wait in memory while the archive cannot be written

Stamp = tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """What a file of the folder was at a moment (aware UTC, of the settings' clock); `name` is relative to the folder."""

    kind: Kind
    name: str
    content: bytes
    at: datetime


def read(folder: Path, kind: Kind, name: str, clock: Callable[[], datetime]) -> tuple[Reading, Stamp]:
    """What a file is now, and by what one sees that it is another later. More than its kind can have is cut off.

    Raises OSError.
    """
    at = clock()
    stamp = _stamp(folder / name)
    with (folder / name).open("rb") as file:
        return Reading(kind, name, file.read(kind.limit + 1), at), stamp


def take(archive: Archive, reading: Reading) -> Entry | None:
    """Archives what was read; None when it is there: under that name as the newest, of an older file under any.

    Raises ArchiveFailed.
    """
    source = reading.kind.name
    if reading.name != reading.kind.file and archive.has(source, hashlib.sha256(reading.content).hexdigest()):
        return None
    entry = archive.append(source, reading.content, name=reading.name, at=reading.at, content_type="application/json")
    if entry:
        instruments.appended(source, entry.size)
    return entry


class Watcher:
    """Watches the files of some kinds in a folder, from one thread of its own and those of the events.

    `events` switches these off, for a test of what happens without.
    """

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[Kind],
        archive: Archive,
        clock: Callable[[], datetime],
        tell: Callable[[str, str], None] = lambda _source, _message: None,
        *,
        look_every_s: float = LOOK_EVERY_S,
        patience_s: float = PATIENCE_S,
        events: bool = True,
    ) -> None:
        self._folder, self._kinds, self._archive = folder, kinds, archive
        self._clock, self._tell = clock, tell
        self._look_every_s, self._patience_s, self._events = look_every_s, patience_s, events
        self._reading = threading.Lock()  # what is read first is also queued first
        self._queue: queue.SimpleQueue[Reading] = queue.SimpleQueue()
        self._stamps: dict[str, Stamp] = {}
        self._pending: dict[str, tuple[Reading, float]] = {}
        self._backlog: deque[Reading] = deque()
        self._observer: BaseObserver | None = None
        self._watched: tuple[Stamp, ...] = ()
        self._attached = 0.0
        self._hears = False
        self._deaf = False  # no events come from what is watched now
        self._listed: dict[str, float] = {}  # by kind: as of when its older files are known
        self._retry = 0.0
        self._states = {kind.name: State.read(archive.place(kind.name)) for kind in kinds}
        self._noted = dict.fromkeys(self._states, 0.0)

    def run(self, stop: threading.Event) -> None:
        """Watches until it is told to stop; what was read by then is archived."""
        for kind in self._kinds:
            with suppress(ArchiveFailed, ArchiveDamaged):
                self._archive.recover(kind.name)
        self._pass_over_old_captures()
        try:
            while not stop.is_set():
                self.look()
                self._work(stop, time.monotonic() + (self._look_every_s if self._hears else QUICK_LOOK_S))
        finally:
            self._detach()
            self._work(stop, 0)

    def look(self) -> None:
        """Looks at every file once, whatever the events say."""
        self._attach()
        missed = False
        for kind in self._kinds:
            missed |= self._look_at(kind)
        if missed and self._hears:  # a network's folder, or an observer that ended
            self._deaf = True
            self._tell(self._kinds[0].name, "the folder gives no events: it is looked at often")
            self._detach()

    def _look_at(self, kind: Kind) -> bool:
        """Looks at the files of a kind; True when one has changed some time ago, and no event has told."""
        problem, missed = None, False
        for name in (*self._history(kind), kind.file):
            try:
                stamp = _stamp(self._folder / name)
                if stamp != self._stamps.get(name):
                    missed |= name in self._stamps and time.time() - stamp[0] / 1e9 > _LATE_S
                    self._read(kind, name)
            except OSError as error:
                if name == kind.file:
                    self._stamps.pop(name, None)
                    problem = f"{name} cannot be read: {error.strerror or error}"
                    if isinstance(error, FileNotFoundError):
                        gone = not self._folder.is_dir()
                        problem = "the legacy folder is not there" if gone else f"{name} is not in the legacy folder"
        self._note(kind, problem)
        return missed

    def _history(self, kind: Kind) -> list[str]:
        """The names of older ones that were not read yet, the oldest first."""
        if kind.history is None:
            return []
        folder = self._folder / HISTORY_FOLDER
        try:
            changed = folder.stat().st_mtime
            if changed == self._listed.get(kind.name):
                return []
            names = (f"{HISTORY_FOLDER}/{name}" for name in fnmatch.filter(os.listdir(folder), kind.history))
        except OSError:  # there need be none
            return []
        new = sorted(name for name in names if name not in self._stamps)
        if not new and time.time() - changed > _LATE_S:  # one more within the same tick would not show
            self._listed[kind.name] = changed
        return new

    def _pass_over_old_captures(self) -> None:
        """Those that were there when the archive got its newest entry are the migration's, not ours.

        By the time of the disk, not the settings' clock; a file's status changes also when it is moved.
        """
        for kind in self._kinds:
            known = self._archive.written(kind.name) or time.time()
            for name in self._history(kind):
                with suppress(OSError):
                    if (self._folder / name).stat().st_ctime < known:
                        self._stamps[name] = _stamp(self._folder / name)

    def _read(self, kind: Kind, name: str) -> None:
        """Reads a file, and queues what it is. Raises OSError."""
        with self._reading:
            reading, self._stamps[name] = read(self._folder, kind, name, self._clock)
            self._queue.put(reading)

    def heard(self, path: str) -> None:
        """An event told that the file at the path may be another one: it is read in the event's own thread, at once."""
        name = Path(path).relative_to(self._folder).as_posix()
        for kind in self._kinds:
            past = kind.history is not None and Path(name).match(f"{HISTORY_FOLDER}/{kind.history}")
            if name == kind.file or past:
                self._hears = True
                with suppress(OSError):  # moved away again: the next look says so
                    self._read(kind, name)

    def _work(self, stop: threading.Event, until: float) -> None:
        """Archives what is queued, and waits for more until that moment (monotonic)."""
        while True:
            left = until - time.monotonic()
            pause = min(left, 0.1 if self._pending or self._backlog else 0.5)
            try:
                reading = (
                    self._queue.get(timeout=pause) if pause > 0 and not stop.is_set() else self._queue.get_nowait()
                )
                self._sort(reading)
            except queue.Empty:
                self._read_halves_again()
                if left <= 0 or stop.is_set():
                    break
            self._drain()
        self._drain()

    def _sort(self, reading: Reading) -> None:
        """A whole document goes to the archive; a half one waits for what comes next, and goes as it is after a while.

        Then its parser says what is wrong with it.
        """
        _, since = self._pending.pop(reading.name, (None, time.monotonic()))
        if _whole(reading.content) or time.monotonic() - since >= self._patience_s:
            self._keep(reading)
        else:
            self._pending[reading.name] = reading, since

    def _read_halves_again(self) -> None:
        """What stayed half for too long is read once more, in case that no event tells of its end."""
        for name, (reading, since) in list(self._pending.items()):
            if time.monotonic() - since >= self._patience_s:
                try:
                    self._read(reading.kind, name)
                except OSError:
                    self._sort(reading)

    def _keep(self, reading: Reading) -> None:
        if len(self._backlog) == _WAITING:
            lost = self._backlog.popleft()
            instruments.fetched(lost.kind.name, "failed", 0)
            self._tell(lost.kind.name, f"lost the {lost.name} of {lost.at.isoformat()}: too much waits for the disk")
        self._backlog.append(reading)

    def _drain(self) -> None:
        """Archives what waits, in order; it waits on while the archive cannot be written."""
        while self._backlog and time.monotonic() >= self._retry:
            reading = self._backlog[0]
            source = reading.kind.name
            try:
                entry = take(self._archive, reading)
            except (ArchiveFailed, ArchiveDamaged) as error:
                self._retry = time.monotonic() + _RETRY_S
                self._note(reading.kind, str(error))
                return
            self._backlog.popleft()
            if entry:
                instruments.fetched(source, "new", 0)
                self._states[source] = self._states[source].brought(reading.at)
                self._states[source].write(self._archive.place(source))
                self._tell(source, f"new #{entry.seq} {entry.name} {entry.size} bytes")

    def _note(self, kind: Kind, problem: str | None) -> None:
        """Keeps the source's state: at once when it is another one, else once a minute."""
        source, before = kind.name, self._states[kind.name]
        if problem == before.problem and time.monotonic() - self._noted[source] < _NOTE_EVERY_S:
            return
        if problem is None and self._backlog:
            return  # the disk is full still
        at = self._clock()
        self._states[source] = before.failed(at, problem) if problem else before.answered(at)
        self._states[source].write(self._archive.place(source))
        self._noted[source] = time.monotonic()
        if problem:
            instruments.fetched(source, "failed", 0)
        if problem != before.problem:
            self._tell(source, f"failed: {problem}" if problem else "there again")

    def _attach(self) -> None:
        """Sees to it that events come from the folders that are there now; without, the look is a quick one."""
        folders = [f for f in (self._folder, self._folder / HISTORY_FOLDER) if f.is_dir()]
        watched = tuple(_identity(folders))
        stale = watched != self._watched
        waited = time.monotonic() - self._attached >= _ATTACH_EVERY_S
        if not self._events or not (stale or (self._observer is None and waited and not self._deaf)):
            return
        self._detach()
        self._deaf = False
        self._watched, self._attached = watched, time.monotonic()
        if not folders:
            return
        observer = _observer()
        try:
            for folder in folders:
                observer.schedule(_Handler(self), str(folder))
            observer.start()
        except OSError as error:  # no more watches are allowed, or the folder is gone again
            self._tell(self._kinds[0].name, f"no events: {error.strerror or error}; the folder is looked at often")
            observer.unschedule_all()
            return
        self._observer, self._hears = observer, True
        self._stamps = {n: s for n, s in self._stamps.items() if n.startswith(HISTORY_FOLDER)}  # read all once more

    def _detach(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(1)
            self._observer = None
            self._hears = False


class _Handler(FileSystemEventHandler):
    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def on_any_event(self, event: FileSystemEvent) -> None:
        if not event.is_directory:
            for path in {event.src_path, event.dest_path} - {""}:
                self._watcher.heard(str(path))


def _observer() -> BaseObserver:
    """What gives events. On Linux only of files that were closed or moved in: then none waits for its counterpart."""
    if sys.platform != "linux":
        return Observer()
    from watchdog.observers.inotify import InotifyEmitter
    from watchdog.observers.inotify_c import InotifyConstants as Mask

    class Emitter(InotifyEmitter):
        def get_event_mask_from_filter(self) -> int:
            return Mask.IN_CLOSE_WRITE | Mask.IN_MOVED_TO | Mask.IN_DELETE_SELF

    return BaseObserver(Emitter)


def _whole(content: bytes) -> bool:
    """Whether a JSON document is all there; what is no UTF-8 is read as Latin-1."""
    try:
        json.loads(content if content.isascii() else _text(content))
    except (ValueError, RecursionError):
        return False
    return True


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_mtime_ns, found.st_ino, found.st_size


def _identity(folders: Sequence[Path]) -> Iterator[Stamp]:
    for folder in folders:
        with suppress(OSError):
            found = folder.stat()
            yield found.st_dev, found.st_ino
