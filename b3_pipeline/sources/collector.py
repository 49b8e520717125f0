"""The collector: a resident process that fetches, watches or replays all sources of a home. No Dagster, no database.

Each source has a thread of its own, so that none waits for another, and one that fails is that source's own matter.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from b3_pipeline.clock import FILE as CLOCK_FILE
from b3_pipeline.clock import ClockDamaged
from b3_pipeline.errors import B3Error, UsageError
from b3_pipeline.metrics import instruments
from b3_pipeline.settings import Settings
from b3_pipeline.sources import archive, catalog
from b3_pipeline.sources.archive import Archive, ArchiveDamaged, ArchiveFailed
from b3_pipeline.sources.catalog import Source
from b3_pipeline.sources.collecting import Attempt, Collecting, unexpected
from b3_pipeline.sources.fetching import Getter
from b3_pipeline.sources.inbox import Inbox
from b3_pipeline.sources.replaying import Replay
from b3_pipeline.sources.state import State
from b3_pipeline.sources.watching import Watcher

FOLDER = "collector"
HEARTBEAT_FILE = "heartbeat.json"
HEARTBEAT_S = 2.0
_LONGEST_WAIT_S = 0.5  # until the clock, which may be set, is looked at again
_AFTER_ERROR_S = 5.0
_STOP_S = 1.0
_WATCHER = "watcher"

Tell = Callable[[str, str], None]


class AlreadyCollecting(B3Error):
    """Another collector is at work in this home."""


def print_line(source: str, message: str) -> None:
    """A line of the log: when (UTC, really), which source, what."""
    sys.stderr.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {source}: {message}\n")  # one write: threads share it
    sys.stderr.flush()


def collect_once(settings: Settings, name: str) -> Attempt:
    """Asks one source now, whatever the time. Raises UsageError when there is none of that name to ask."""
    sources = {n: s for n, s in catalog.SOURCES.items() if s.fetch or s.file or s.inbox}
    if name not in sources:
        raise UsageError(f"{name} is no source that can be collected: {', '.join(sources)}.")
    source = sources[name]
    if not source.configured(settings):
        raise UsageError(f"{name} is not configured: see `b3 doctor`, and the settings in `b3 collect --help`.")
    instruments.ready(settings)
    kept = Archive(settings.home / archive.FOLDER)
    if source.inbox and settings.signals_inbox:
        return Inbox(settings.signals_inbox, kept, settings.clock).collect()
    return Collecting(source, settings, kept, _getter(settings, name)).collect()


class Collector:
    """All sources of a home, in threads, until it is told to stop."""

    def __init__(
        self, settings: Settings, sources: Mapping[str, Source] | None = None, tell: Tell = print_line
    ) -> None:
        self._settings, self._tell = settings, tell
        self._sources = catalog.enabled(settings) if sources is None else sources
        self._archive = Archive(settings.home / archive.FOLDER)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def busy(self) -> bool:
        """Whether a source is at work, as one may be for a while after `run` has returned."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Lets `run` return, within about a second: what is being fetched is fetched again next time."""
        self._stop.set()

    def run(self) -> None:
        """Collects until `stop` or an interrupt. Raises AlreadyCollecting, NoRecording."""
        folder = self._settings.folder(FOLDER)
        lock = FileLock(folder / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise AlreadyCollecting(f"A collector is at work in {self._settings.home} already.") from None
        try:
            instruments.ready(self._settings)
            self._threads = [threading.Thread(target=self._guarded, args=work, daemon=True) for work in self._work()]
            for thread in self._threads:
                thread.start()
            self._beat(folder)
        finally:
            instruments.stop()
            lock.release()

    def _beat(self, folder: Path) -> None:
        """Gives signs of life until it is told to stop, or interrupted; then the threads have a second to end."""
        try:
            while not self._stop.is_set():
                beat(folder)
                self._stop.wait(HEARTBEAT_S)
        finally:
            self._stop.set()
            deadline = time.monotonic() + _STOP_S
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> list[tuple[str, Callable[[], None]]]:
        """What is to be done side by side, each with the name under which it is logged."""
        if self._settings.replay_dir is not None:
            replay = Replay(self._settings, self._settings.replay_dir, self._tell)
            replay.set_clock()
            self._tell("collector", f"replays a recording, {self._settings.replay_speed:g} times as fast")
            return [("replay", lambda: replay.run(self._stop))]
        if (self._settings.home / CLOCK_FILE).exists():
            self._tell("collector", f"the home's clock is not the real one ({CLOCK_FILE})")
        folder, work = self._settings.legacy_dir, []
        watched = [s.kind for s in self._sources.values() if s.watchable] if folder else []
        if folder and watched:
            watcher = Watcher(folder, watched, self._archive, self._settings.clock, self._tell)
            work.append((_WATCHER, lambda: watcher.run(self._stop)))
        inboxes = [s.name for s in self._sources.values() if s.inbox]
        if self._settings.signals_inbox and inboxes:
            inbox = Inbox(self._settings.signals_inbox, self._archive, self._settings.clock, self._tell)
            work.append((inboxes[0], lambda: inbox.run(self._stop)))
        asked = [s for s in self._sources.values() if s.times and s.kind not in watched]
        for source in asked:
            one = Collecting(source, self._settings, self._archive, _getter(self._settings, source.name), self._tell)
            work.append((source.name, lambda one=one: self._turn(one)))
        names = ", ".join([kind.name for kind in watched] + inboxes + [source.name for source in asked])
        self._tell("collector", f"collects {names or 'nothing: no source is configured'}")
        return work

    def _turn(self, one: Collecting) -> None:
        """Collects a source whenever it is due."""
        with suppress(ArchiveFailed, ArchiveDamaged):
            self._archive.recover(one.source.name)
        while not self._stop.is_set():
            one.step()
            self._stop.wait(min(max(one.wait(), 0.01), _LONGEST_WAIT_S))

    def _guarded(self, name: str, work: Callable[[], None]) -> None:
        """Does the work, and begins again after an error: only what it is and where, for its text may hold a secret.

        A source's own work then counts as failed, so that somebody is told.
        """
        while not self._stop.is_set():
            try:
                work()
                return
            except Exception as error:
                shown = str(error) if isinstance(error, B3Error) else unexpected(error)
                instruments.fetched(name, "failed", 0)
                self._note_failure(name, shown)
                trace = "".join(traceback.format_tb(error.__traceback__))
                self._tell(name, f"ended with an error and begins again: {shown}\n{trace}".rstrip())
            self._stop.wait(_AFTER_ERROR_S)

    def _note_failure(self, name: str, problem: str) -> None:
        """Writes a failure into the states of the sources that this work is of."""
        try:
            now = self._settings.clock()
        except ClockDamaged:  # this may be what is told
            now = datetime.now(UTC)
        for source in self._sources.values():
            if source.name == name or (name == _WATCHER and source.watchable):
                place = self._archive.place(source.name)
                State.read(place).failed(now, problem).write(place)


def beat(folder: Path) -> None:
    """Gives a sign of life, in real time; a full disk is no reason to die."""
    draft = folder / f".{HEARTBEAT_FILE}.{os.getpid()}"
    with suppress(OSError):
        draft.write_text(json.dumps({"at": datetime.now(UTC).isoformat(), "pid": os.getpid()}) + "\n", "utf-8")
        draft.replace(folder / HEARTBEAT_FILE)


def _getter(settings: Settings, name: str) -> Getter:
    return Getter(settings, lambda: instruments.retried(name))
