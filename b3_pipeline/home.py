"""Who manages the servers of a home: one process at a time, by a lock with a name on it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from b3_pipeline.credentials import write_private
from b3_pipeline.errors import B3Error
from b3_pipeline.processes import find_process
from b3_pipeline.settings import Settings


class HomeBusy(B3Error):
    """Another process manages the servers of this home."""


class DiskFull(B3Error):
    """Too little disk is free to start anything."""


class State(StrEnum):
    """How far the holder is: nothing usable yet, the databases healthy, all healthy, on its way out."""

    STARTING = "starting"
    ENGINES = "engines"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(frozen=True)
class Holder:
    """What is known of the process that holds the home. `shared`: others may use its servers (`b3 up`)."""

    command: str
    pid: int
    create_time: float
    port_base: int
    shared: bool
    state: State = State.STARTING
    restarts: dict[str, int] = field(default_factory=dict)  # by server: how often it was started again after a crash

    @classmethod
    def of(cls, home: Path) -> Holder | None:
        """The living holder of a home."""
        try:
            given = json.loads(_file(home).read_text("utf-8"))
            holder = cls(**{**given, "state": State(given["state"])})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None
        return holder if find_process(holder.pid, holder.create_time) else None

    @property
    def open_to_us(self) -> bool:
        """Whether this process may use the holder's databases now: if shared, or its own, or those of an ancestor."""
        if self.state not in (State.ENGINES, State.READY):
            return False
        return self.shared or self.pid == os.getpid() or self.pid in {p.pid for p in psutil.Process().parents()}

    def busy(self) -> HomeBusy:
        """The error for a process that wanted to start servers of its own."""
        if self.shared and self.state == State.STARTING:
            advice = "It is still starting: try again in a moment, or see `b3 status`."
        elif self.shared:
            advice = "Try again in a moment, or stop it with `b3 down`."
        else:
            advice = "Wait until it has ended, or run `b3 up` first: then commands share its servers."
        return HomeBusy(f"`{self.command}` (pid {self.pid}) manages the servers of this home. {advice}")


class Hold:
    """The home, held by this process."""

    def __init__(self, home: Path, holder: Holder) -> None:
        self._home = home
        self.holder = holder
        self.reached(holder.state)

    def reached(self, state: State) -> None:
        """Lets other processes know how far we are."""
        self._tell(state=state)

    def restarted(self, restarts: dict[str, int]) -> None:
        """Lets other processes know how often each server was started again."""
        self._tell(restarts=restarts)

    def _tell(self, **news: Any) -> None:
        self.holder = replace(self.holder, **news)
        write_private(_file(self._home), json.dumps(asdict(self.holder)))


@contextmanager
def hold(settings: Settings, *, shared: bool) -> Iterator[Hold]:
    """Holds the home until the block ends. Raises HomeBusy when another process does."""
    run = settings.folder("run")
    lock = FileLock(run / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        holder = Holder.of(settings.home)
        raise (holder.busy() if holder else HomeBusy(f"Another process is just starting in {settings.home}.")) from None
    try:
        created = psutil.Process().create_time()
        yield Hold(settings.home, Holder(_command(), os.getpid(), created, settings.port_base, shared))
    finally:
        _file(settings.home).unlink(missing_ok=True)
        lock.release()


def require_disk(settings: Settings) -> None:
    """Raises DiskFull when less is free than `min_free_disk_mb`."""
    free = shutil.disk_usage(settings.folder()).free // 2**20
    if free < settings.min_free_disk_mb:
        raise DiskFull(
            f"Only {free} MB are free in {settings.home}, and at least {settings.min_free_disk_mb} are needed. Make room, "
            "or set B3_HOME to another disk, or B3_MIN_FREE_DISK_MB to less."
        )


def _command() -> str:
    """What this process is to a person: `b3 migrate`, without arguments."""
    program = Path(sys.argv[0])
    return " ".join(["b3", *sys.argv[1:2]]) if program.stem in ("b3", "__main__") else program.name


def _file(home: Path) -> Path:
    return home / "run" / "holder"
