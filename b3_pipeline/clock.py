"""The clock of a home that replays: another date and pace, told by `B3_HOME/clock.json` to every process of the home."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from b3_pipeline.errors import B3Error

FILE = "clock.json"


class ClockDamaged(B3Error):
    """The home's clock cannot be read; no other time is made up for it."""


@dataclass(frozen=True)
class Pace:
    """At the real time `began` it is `start`; from then on time goes `speed` times as fast, at its own pace after `until`.

    All moments are aware.
    """

    start: datetime
    began: datetime
    speed: float = 1.0
    until: datetime | None = None

    def __post_init__(self) -> None:
        if not 0 < self.speed <= 1e6:
            raise ValueError("speed lies above 0, and not above a million")
        if None in (moment.tzinfo for moment in (self.start, self.began, self.until) if moment):
            raise ValueError("a moment without a zone")
        if self.until is not None and self.until < self.start:
            raise ValueError("until lies before start")

    def at(self, real: datetime) -> datetime:
        """What time it is, aware UTC, when it is really `real` (aware)."""
        passed = max(real - self.began, timedelta())
        if self.until is not None:
            span = (self.until - self.start).total_seconds()
            if passed.total_seconds() * self.speed > span:
                return (self.until + passed - timedelta(seconds=span / self.speed)).astimezone(UTC)
        return (self.start + passed * self.speed).astimezone(UTC)


class HomeClock:
    """The time in a home: real (aware UTC), unless there is a clock file. It is read again when it is another one."""

    def __init__(self, home: Path, real: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._file, self._real = home / FILE, real
        self._seen: tuple[int, ...] | None = None
        self._pace: Pace | None = None

    def __call__(self) -> datetime:
        """The present. Raises ClockDamaged."""
        pace = self.pace()
        return pace.at(self._real()) if pace else self._real()

    def pace(self) -> Pace | None:
        """What the clock file says; None where there is none. Raises ClockDamaged."""
        try:
            found = os.stat(self._file)
        except FileNotFoundError:
            self._seen = self._pace = None
            return None
        seen = (found.st_mtime_ns, found.st_ino, found.st_size)
        if seen != self._seen:
            self._pace, self._seen = _read(self._file), seen
        return self._pace


def set_clock(home: Path, pace: Pace) -> None:
    """Sets the clock of all processes of a home, at once."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = {"start": pace.start.isoformat(), "began": pace.began.isoformat(), "speed": pace.speed}
    text = json.dumps({**facts, "until": pace.until.isoformat() if pace.until else None}, indent=1)
    draft = home / f".{FILE}.{os.getpid()}"
    draft.write_text(text + "\n", "utf-8")
    draft.replace(home / FILE)


def remove_clock(home: Path) -> None:
    """Back to the real time."""
    (home / FILE).unlink(missing_ok=True)


def _read(file: Path) -> Pace | None:
    try:
        given = json.loads(file.read_text("utf-8"))
        moments = {name: datetime.fromisoformat(given[name]) for name in ("start", "began")}
        until = datetime.fromisoformat(given["until"]) if given.get("until") else None
        return Pace(**moments, speed=float(given.get("speed", 1)), until=until)
    except FileNotFoundError:  # just removed
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ClockDamaged(f"{file} is no clock ({error}). Delete it to go back to the real time.") from error
