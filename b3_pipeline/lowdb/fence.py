"""Who takes writes of the ideas, told to every process of a home at once, and held still while a step moves it.

Phases are kept in PostgreSQL, and processes read them each second: too late for a write. So whoever writes holds a lock of
the home, shared; a step holds it alone, and leaves a note with the phase there. Of the note and of what a process knows the
newer counts.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from b3_pipeline.credentials import write_private
from b3_pipeline.cutover.folder_backup import Stamp
from b3_pipeline.cutover.journal import FOLDER
from b3_pipeline.errors import B3Error
from b3_pipeline.lowdb.model import DOMAIN
from b3_pipeline.lowdb.store import StoreAway
from b3_pipeline.postgres.flags import PHASE, Current

#: A write waits so long for a step; then it is refused, and its client may come again.
HELD_S = 1.0
#: A step waits so long for the writes that are under way: their own time-outs are shorter.
DRAINED_WITHIN_S = 30.0
_AGAIN_S = 0.01
_EVER = datetime.min.replace(tzinfo=UTC)


class Switching(StoreAway):
    """The ideas are being moved from one store to the other just now: a write may come again in a second."""


class WritesGoOn(B3Error):
    """A write has not ended in time, so nothing can be moved."""


@dataclass(frozen=True)
class Note:
    """The phase since a moment (aware UTC). `moving`: to another one; only a crash leaves it so, and PostgreSQL knows."""

    phase: str
    since: str
    moving: bool = False


def note_of(home: Path) -> Path:
    """Where the note of a home lies."""
    return home / FOLDER / f"{DOMAIN}-writes.json"


class Fence:
    """The lock and the note of a home. Whoever waits for the lock comes in order: a step never waits for new writes."""

    def __init__(self, home: Path) -> None:
        folder = home / FOLDER
        self._door, self._room = (folder / f"{DOMAIN}-writes.{name}" for name in ("door", "room"))
        self._file = note_of(home)
        self._seen: Stamp | None = None
        self._note: Note | None = None

    def standing(self, current: Current) -> Note:
        """The phase that stands, by the note or by what this process knows of PostgreSQL: the newer one counts.

        However old a note is, what a process knows may be older: it may have stood still in between.
        """
        entry = current.entries[DOMAIN, PHASE.name]
        known = Note(entry.value, entry.since.isoformat() if entry.since else "")
        note = self._read()
        if note is None:
            return known
        noted, since = datetime.fromisoformat(note.since), entry.since or _EVER
        return note if noted > since or (noted == since and note.moving) else known

    def tell(self, phase: str, since: datetime, *, moving: bool = False) -> None:
        """Leaves a note; every process heeds it with its next question. Raises OSError."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._file, json.dumps(asdict(Note(phase, since.isoformat(), moving))))

    @asynccontextmanager
    async def entered(self) -> AsyncIterator[None]:
        """For one write: no step moves anything meanwhile. Raises Switching when one is at it for longer than a second."""
        deadline = time.monotonic() + HELD_S
        while (room := self._enter()) is None:
            if time.monotonic() >= deadline:
                raise Switching("The ideas are being moved to another store just now. Try again in a second.")
            await asyncio.sleep(_AGAIN_S)
        try:
            yield
        finally:
            os.close(room)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """For a step: no write is under way, and none begins. Raises WritesGoOn."""
        deadline = time.monotonic() + DRAINED_WITHIN_S
        with ExitStack() as stack:
            for path in (self._door, self._room):
                while (held := _locked(path, fcntl.LOCK_EX)) is None:
                    if time.monotonic() >= deadline:
                        raise WritesGoOn("A write of the ideas does not end. Run the same command again.")
                    time.sleep(_AGAIN_S)
                stack.callback(os.close, held)
            yield

    def _enter(self) -> int | None:
        """The lock of one write; None while a step has it, or waits for it."""
        door = _locked(self._door, fcntl.LOCK_SH)
        if door is None:
            return None
        try:
            return _locked(self._room, fcntl.LOCK_SH)
        finally:
            os.close(door)

    def _read(self) -> Note | None:
        stamp = Stamp.of(self._file)
        if stamp != self._seen:
            self._note = Note(**json.loads(self._file.read_text("utf-8"))) if stamp else None
            self._seen = stamp
        return self._note


def _locked(path: Path, how: int) -> int | None:
    """A lock on a file, held until its descriptor is closed or the process ends; None when others are in the way."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
