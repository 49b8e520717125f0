"""Replaying a recording: what an archive once received comes in again, at its own pace or faster, instead of the sources."""

from __future__ import annotations

import heapq
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from b3_pipeline.clock import FILE as CLOCK_FILE
from b3_pipeline.clock import Pace, set_clock
from b3_pipeline.errors import B3Error
from b3_pipeline.metrics import instruments
from b3_pipeline.settings import Settings
from b3_pipeline.sources.archive import FOLDER, Archive, ArchiveDamaged, ArchiveFailed, Entry
from b3_pipeline.sources.state import State

_PROGRESS = "replay.json"
_LOOK_EVERY_S = 0.5
_RETRY_S = 1.0


class NoRecording(B3Error):
    """The folder holds no recording."""


class Replay:
    """A recording on its way into a home's archive, in the order of its times, each entry once.

    An entry is due when the home's clock reaches the time at which it was received first. `replay.json` of a source says
    how far it is; an entry that was appended, and not noted so before a crash, has the newest content of its name.
    """

    def __init__(
        self, settings: Settings, recording: Path, tell: Callable[[str, str], None] = lambda _source, _message: None
    ) -> None:
        self._settings, self._tell = settings, tell
        self._archive = Archive(settings.home / FOLDER)
        self._recording = Archive(recording)
        if not self._recording.sources():
            raise NoRecording(
                f"{recording} holds no recording: give a folder in the form of an archive (B3_REPLAY_DIR)."
            )
        if recording.resolve() == self._archive.folder.resolve():
            raise NoRecording(f"{recording} is the archive of this very home: copy it, or `b3 archive export` it.")

    def set_clock(self, real: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Sets the home's clock to the recording's beginning and pace, where it has none yet; B3_NOW stays what it is."""
        if self._settings.now or (self._settings.home / CLOCK_FILE).exists():
            return
        first, last = self.span()
        set_clock(self._settings.home, Pace(first, real(), self._settings.replay_speed, last))

    def span(self) -> tuple[datetime, datetime]:
        """When the recording's first and last entry were received."""
        recording = self._recording
        ends = [recording.entry(s, edge(s)) for s in recording.sources() for edge in (recording.first, recording.last)]
        times = sorted(entry.at for entry in ends if entry)
        return times[0], times[-1]

    def run(self, stop: threading.Event) -> None:
        """Appends what is due, until all of it is, or it is told to stop."""
        for entry in self._entries(self._done):
            while not stop.is_set() and (wait := self._until(entry)) > 0:
                stop.wait(min(wait, _LOOK_EVERY_S))
            while not stop.is_set() and not self._append(entry):
                stop.wait(_RETRY_S)
            if stop.is_set():
                return
        self._tell("replay", "all of the recording is in the archive")

    def _entries(self, after: Callable[[str], int]) -> Iterator[Entry]:
        """The recording's entries after those of each source, in the order of their times."""
        recording = self._recording
        sources = [s for s in recording.sources() if s not in self._settings.sources_off]
        return heapq.merge(*(recording.after(s, after(s)) for s in sources), key=lambda e: e.at)

    def _until(self, entry: Entry) -> float:
        """Real seconds until an entry is due."""
        return (entry.at - self._settings.clock()).total_seconds() / self._settings.replay_speed

    def _append(self, entry: Entry) -> bool:
        """Appends an entry as the sources would now; False when the archive cannot be written, which is said."""
        at = self._settings.clock()
        place = self._archive.place(entry.source)
        state = State.read(place)
        try:
            with self._recording.open(entry) as content:
                new = self._archive.append(
                    entry.source,
                    content,
                    name=entry.name,
                    at=at,
                    url=f"replay:{entry.url or ''}",
                    status=entry.status,
                    session=entry.session,
                    etag=entry.etag,
                    last_modified=entry.last_modified,
                    content_type=entry.content_type,
                )
        except ArchiveDamaged as error:  # in the recording: all else of it is of use
            self._tell(entry.source, f"left out: {error}")
            self._note(entry)
            return True
        except ArchiveFailed as error:
            state.failed(at, str(error)).write(place)
            instruments.fetched(entry.source, "failed", 0)
            if str(error) != state.problem:
                self._tell(entry.source, f"failed: {error}")
            return False
        self._note(entry)
        instruments.fetched(entry.source, "new" if new else "unchanged", 0)
        if new:
            instruments.appended(entry.source, new.size)
            state.brought(at, entry.etag, entry.last_modified).write(place)
            self._tell(entry.source, f"replayed #{new.seq} {new.name} {new.size} bytes")
        return True

    def _done(self, source: str) -> int:
        """The recording's newest entry of a source that the home's archive has already; 0 for none of this recording."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            noted = json.loads((self._archive.place(source) / _PROGRESS).read_bytes())
            if noted["recording"] == self._identity(source):
                return int(noted["seq"])
        return 0

    def _note(self, entry: Entry) -> None:
        place = self._archive.place(entry.source)
        draft = place / f".{_PROGRESS}.{os.getpid()}"
        noted = {"recording": self._identity(entry.source), "seq": entry.seq}
        with suppress(OSError):  # at worst it is asked for once more
            draft.write_text(json.dumps(noted) + "\n", "utf-8")
            draft.replace(place / _PROGRESS)

    def _identity(self, source: str) -> str:
        """Which recording it is: one may be moved, or another take its place in the same folder."""
        first = self._recording.entry(source, self._recording.first(source))
        return f"{first.seq} {first.at.isoformat()} {first.sha256}" if first else ""
