"""The files in which processes count: who is still alive, and the counts of the dead, kept in one file of each kind.

prometheus-client's multi-process mode gives each process files of its own, which a scrape adds up. Here a process holds a
lock on a file as long as it lives, for process ids are used again. What the dead counted is added up into `…_kept-<n>.db`
files; `kept.json` names the newest `n`, and changes in one step: a count is never lost and never there twice, wherever a
process that merges is killed.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import struct
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from b3_pipeline.credentials import write_private

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

FOLDER = "metrics"  # under the home
#: Bytes that a process's files are given at its start, by kind (the beginning of the file's name). A file that grows on
#: a full disk would end the process that writes to it by SIGBUS: some 800 series fit in, which is more than there are.
SIZES = {"counter": 256 * 1024, "histogram": 256 * 1024, "gauge_mostrecent": 64 * 1024}
#: From so many dead processes on, a new one merges them itself: nobody else may have done it for long.
MANY = 64
_KEPT, _KEPT_NAME, _MERGING = "kept.json", "kept-", "merging.lock"
_FORGOTTEN_S = 3_600  # a draft that is older is nobody's any more
_ATTEMPTS = 20
_log = logging.getLogger(__name__)


class Identity:
    """Names this process's files, also after a fork: a new process gets a name, a lock and files of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._pid, self._name, self._held = folder, -1, "", -1

    def __call__(self) -> str:
        """The name in the files of the process that asks. Raises OSError when its files cannot be made."""
        if os.getpid() != self._pid:
            self._name = self._make()
            self._pid = os.getpid()
        return self._name

    def _make(self) -> str:
        name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        draft = self._folder / f"{name}.draft"
        self.close()
        self._held = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.replace(self._folder / f"{name}.lock")  # it is there locked, or not at all
        for kind, size in SIZES.items():
            with (self._folder / f"{kind}_{name}.db").open("xb") as file:
                file.write(bytes(size))
        return name

    def close(self) -> None:
        """Counts as dead from now on."""
        if self._held >= 0:
            os.close(self._held)
        self._held = -1


def read(folder: Path) -> Iterable[Metric]:
    """All that living and dead processes have counted, added up; an unreadable file is left out and said."""
    from prometheus_client.multiprocess import MultiProcessCollector

    for _ in range(_ATTEMPTS):
        generation, paths = _current(folder)
        with suppress(FileNotFoundError):
            readable = [path for path in paths if _values(path) is not None]
            found = MultiProcessCollector.merge([str(path) for path in readable])
            if _manifest(folder)[0] == generation:
                return found
    raise OSError(f"{folder} changes faster than it can be read")


def merge_dead(folder: Path) -> int:
    """Adds the files of processes that have ended to those that are kept, and deletes them; returns how many processes.

    Nothing happens while another process does the same. Raises OSError when it cannot be written.
    """
    try:
        with FileLock(folder / _MERGING, timeout=0):
            return _merge_dead(folder)
    except Timeout:
        return 0


def _merge_dead(folder: Path) -> int:
    generation, absorbed = _manifest(folder)
    _clear(folder, generation, absorbed)  # what a merge that was killed has left
    names = {_name(path) for path in [*folder.glob("*.db"), *folder.glob("*.lock")]}
    names -= {f"{_KEPT_NAME}{generation}", Path(_MERGING).stem}
    dead = sorted(name for name in names if _is_dead(folder, name))
    if not dead:
        return 0
    new = f"{_KEPT_NAME}{generation + 1}"
    for kind in SIZES:
        files = [folder / f"{kind}_{name}.db" for name in (f"{_KEPT_NAME}{generation}", *dead)]
        _write_sum(folder / f"{kind}_{new}.db", kind, [path for path in files if path.exists()])
    write_private(folder / _KEPT, json.dumps({"generation": generation + 1, "absorbed": dead}))
    _clear(folder, generation + 1, dead)
    return len(dead)


def _write_sum(target: Path, kind: str, files: Iterable[Path]) -> None:
    """Writes the values of many files as one: counts are added up, of a gauge the newest stays."""
    from prometheus_client.mmap_dict import MmapedDict

    total: dict[str, tuple[float, float]] = {}
    for path in files:
        for key, value, moment in _values(path) or ():
            before, newest = total.get(key, (0.0, 0.0))
            if kind != "gauge_mostrecent":
                total[key] = (before + value, 0.0)
            elif moment >= newest:
                total[key] = (value, moment)
    draft = target.with_suffix(".draft")
    needed = sum(len(key.encode()) + 32 for key in total) + 8
    draft.write_bytes(bytes(max(SIZES[kind], needed)))
    merged = MmapedDict(str(draft))
    for key, (value, moment) in total.items():
        merged.write_value(key, value, moment)
    merged.close()
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(target)


def _clear(folder: Path, generation: int, absorbed: Iterable[str]) -> None:
    """Deletes the files of processes that were absorbed, of kept files other than the newest, and drafts."""
    gone = set(absorbed)
    for path in folder.glob("*.db"):
        name = _name(path)
        if name in gone or (name.startswith(_KEPT_NAME) and name != f"{_KEPT_NAME}{generation}"):
            path.unlink(missing_ok=True)
    for path in [*folder.glob("*.draft"), *(folder / f"{name}.lock" for name in gone)]:
        with suppress(FileNotFoundError):
            if path.suffix == ".lock" or time.time() - path.stat().st_mtime > _FORGOTTEN_S:
                path.unlink()


def _current(folder: Path) -> tuple[int, list[Path]]:
    """The generation, and the files that count in it."""
    generation, absorbed = _manifest(folder)
    gone = set(absorbed)
    paths = [
        path
        for path in sorted(folder.glob("*.db"))
        if (name := _name(path)) == f"{_KEPT_NAME}{generation}"
        or (not name.startswith(_KEPT_NAME) and name not in gone)
    ]
    return generation, paths


def _manifest(folder: Path) -> tuple[int, list[str]]:
    """The newest generation, and which processes its kept files have in them that those before had not."""
    try:
        given = json.loads((folder / _KEPT).read_text("utf-8"))
        return int(given["generation"]), list(given["absorbed"])
    except FileNotFoundError:
        return 0, []
    except (ValueError, KeyError, TypeError):
        _log.warning("%s cannot be read: the counts of ended processes begin anew", folder / _KEPT)
        return 0, []


def _is_dead(folder: Path, name: str) -> bool:
    try:
        with (folder / f"{name}.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:  # the lock is there before the files are, so it was deleted
        return True
    except BlockingIOError:
        return False


def _values(path: Path) -> list[tuple[str, float, float]] | None:
    """What a file holds: (key, value, moment); None when it cannot be read."""
    from prometheus_client.mmap_dict import MmapedDict

    try:
        values = list(MmapedDict.read_all_values_from_file(str(path)))
        for key, *_rest in values:
            json.loads(key)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RuntimeError, struct.error):
        _log.warning("%s cannot be read: what it counted is left out", path)
        return None
    return [(key, value, moment) for key, value, moment, _position in values]


def _name(path: Path) -> str:
    return path.stem.rpartition("_")[2]
