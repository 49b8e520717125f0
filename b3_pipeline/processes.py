"""Our child processes: started on a leash, recorded, watched, stopped with all their descendants; leftovers ended.

A process is recognised by its id together with the moment it was created, an orphan of a dead one by its session
together with a token in its environment: never by a name.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from b3_pipeline import leash
from b3_pipeline.credentials import write_private
from b3_pipeline.errors import B3Error

LOG_LIMIT = 10 * 1024 * 1024
TOKEN = "B3_CHILD_TOKEN"


class ServerDied(B3Error):
    """A server ended by itself, or did not become healthy in time."""


@dataclass(frozen=True)
class User:
    """A system user that a child runs as."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Program:
    """What to run. `argv` is recorded and visible to others: no secret belongs in it.

    `nice`: how far it stands back behind the others where the processor is short, 0 to 19.
    """

    name: str
    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str] = field(repr=False)
    stop_signal: signal.Signals = signal.SIGTERM
    user: User | None = None
    nice: int = 0


@dataclass(frozen=True)
class Record:
    """What `run/<name>.json` holds of a running child."""

    name: str
    pid: int
    create_time: float
    token: str
    stop_signal: int
    argv: list[str]

    @classmethod
    def read(cls, file: Path) -> Record | None:
        """The record in a file; None when there is none, or it was cut off."""
        try:
            return cls(**json.loads(file.read_text("utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    @classmethod
    def of(cls, home: Path, name: str) -> Record | None:
        """The record of a child of this home; it may be a dead one's."""
        return cls.read(home / "run" / f"{name}.json")

    def process(self) -> psutil.Process | None:
        """The living process that this is about."""
        return find_process(self.pid, self.create_time)


def find_process(pid: int, create_time: float) -> psutil.Process | None:
    """The living process with this id, if it is the one created at this moment (seconds since the epoch)."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - create_time) < 0.05
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


class Child:
    """A running program of ours, in a session of its own. Start it from a thread that outlives it."""

    def __init__(self, program: Program, home: Path) -> None:
        self.program = program
        self.log = home / "logs" / f"{program.name}.log"
        self._record_file = home / "run" / f"{program.name}.json"
        for folder in (self.log.parent, self._record_file.parent):
            folder.mkdir(parents=True, exist_ok=True)
        self._log_start = rotate(self.log)
        self._popen = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        program, token = self.program, uuid.uuid4().hex
        user = program.user or User(-1, -1)
        leashed = (str(n) for n in (os.getpid(), int(program.stop_signal), user.uid, user.gid, program.nice))
        with open(os.open(self.log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "ab") as log:
            popen = subprocess.Popen(
                [sys.executable, "-I", "-S", leash.__file__, *leashed, *program.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=program.cwd,
                env={**program.env, TOKEN: token},
                start_new_session=True,
            )
        created = psutil.Process(popen.pid).create_time()
        self.record = Record(program.name, popen.pid, created, token, int(program.stop_signal), list(program.argv))
        write_private(self._record_file, json.dumps(asdict(self.record), indent=1))
        return popen

    def tend_log(self) -> None:
        """Moves what the program has written aside, like `rotate`, when it is too much; it writes on meanwhile.

        A line that it writes at that very moment may be lost. Raises OSError.
        """
        if self.log.stat().st_size > LOG_LIMIT:
            shutil.copyfile(self.log, older := _older(self.log))
            older.chmod(0o600)
            os.truncate(self.log, 0)  # the program appends: it goes on at the new end
            self._log_start = 0

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def wait_until(self, healthy: Callable[[], bool], timeout_s: float, pause_s: float = 0.05) -> None:
        """Returns once `healthy()` is true, asked every `pause_s`. Raises ServerDied when the child ends or takes too long before."""
        deadline = time.monotonic() + timeout_s
        while not healthy():
            if not self.alive:
                raise self.died()
            if time.monotonic() > deadline:
                raise self.unhealthy(timeout_s)
            time.sleep(pause_s)

    def died(self) -> ServerDied:
        """The error for a child that is gone, with the last lines of its log."""
        return ServerDied(
            f"{self.name} ended with code {self._popen.poll()}. Its log ({self.log}) ends with:\n{self.tail()}"
        )

    def unhealthy(self, timeout_s: float) -> ServerDied:
        """The error for a child that runs and is of no use after so long, with the last lines of its log."""
        return ServerDied(
            f"{self.name} is not healthy after {timeout_s:.0f} s. Its log ({self.log}) ends with:\n{self.tail()}"
        )

    def tail(self, lines: int = 12) -> str:
        """The last lines that this run of the program wrote; none when its log cannot be read."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(self._log_start, os.fstat(log.fileno()).st_size - 16_384))
                written = log.read()
        except OSError:  # somebody has cleared it away: what the lines are told for matters more
            return ""
        return "\n".join(written.decode("utf-8", "replace").splitlines()[-lines:])

    def forget(self) -> None:
        """Takes the record of an ended child away, and the zombie with it.

        Raises subprocess.TimeoutExpired for one that even a kill has not ended.
        """
        self._popen.wait(timeout=10)  # threads of a killed process may outlast what its state says for a moment
        self._record_file.unlink(missing_ok=True)


def stop(children: Iterable[Child], timeout_s: float = 20) -> None:
    """Stops children together: asks politely, waits, then kills whatever is left of them and their descendants.

    Raises subprocess.TimeoutExpired for a child that even a kill has not ended.
    """
    children = list(children)
    _end([child.record for child in children], timeout_s)
    for child in children:
        child.forget()


def end_leftovers(home: Path, timeout_s: float = 20) -> list[str]:
    """Ends what processes of a crashed run of ours left behind in this home, and returns their names.

    Call it only while holding the home's lock.
    """
    files = {file: Record.read(file) for file in sorted((home / "run").glob("*.json"))}
    records = [record for record in files.values() if record]
    alive = [record.name for record in records if _family(record)]
    _end(records, timeout_s)
    for file in files:
        file.unlink(missing_ok=True)
    return alive


def _end(records: Iterable[Record], timeout_s: float) -> None:
    records = list(records)
    families = {process for record in records for process in _family(record)}
    for record in records:
        if leader := record.process():
            _signal(leader, record.stop_signal)
    leaders = [leader for record in records if (leader := record.process())]
    wait_ended(leaders, timeout_s)
    families |= {process for record in records for process in _family(record)}
    for process in families:
        _signal(process, signal.SIGKILL)
    wait_ended(families, 5)


def _family(record: Record) -> set[psutil.Process]:
    """A recorded process with its descendants, and the orphans of its session when it is gone."""
    leader = record.process()
    found = {leader} if leader else set()
    with suppress(psutil.NoSuchProcess):
        found |= set(leader.children(recursive=True)) if leader else set()
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == record.pid and psutil.Process(pid).environ().get(TOKEN) == record.token:
                found.add(psutil.Process(pid))
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return found


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def wait_ended(processes: Collection[psutil.Process], timeout_s: float) -> bool:
    """Waits until all have ended, and tells whether they have.

    A zombie has ended: its parent may be slow to collect it, and in a container there may be nobody who does.
    """
    deadline = time.monotonic() + timeout_s
    while still := any(_running(process) for process in processes):
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return not still


def _running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def rotate(log: Path) -> int:
    """Keeps one older log beside a log that has grown over the limit; returns where the new part begins."""
    size = log.stat().st_size if log.exists() else 0
    if size <= LOG_LIMIT:
        return size
    log.replace(_older(log))
    return 0


def _older(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")
