"""Conditions on their way from other processes to the monitor: files in `B3_HOME/alerts/spool`, in order, none lost.

What `put` has returned from is safe on disk. `take` gives conditions at least once: the engine knows those that it had.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from b3_pipeline.alerts.conditions import Condition
from b3_pipeline.credentials import write_private
from b3_pipeline.durable import sync
from b3_pipeline.errors import B3Error

FOLDER, DAMAGED = Path("alerts", "spool"), "damaged"
#: Files that wait at most: so many are hours of a monitor that does not run.
FILES = 5_000
BATCH = 20
#: Conditions in a file at most; a longer list goes into several. One batch fits into what the engine remembers.
_A_FILE = 100
_FORGOTTEN_S = 3_600
_CONDITIONS = TypeAdapter(list[Condition])
_log = logging.getLogger(__name__)
_ordering, _last = threading.Lock(), 0


class SpoolFull(B3Error):
    """Nobody takes conditions out: nothing more is put in, and whoever has some keeps them."""


def put(home: Path, conditions: Iterable[Condition]) -> None:
    """Hands conditions to the monitor of this home, in their order; a list may be long.

    Raises SpoolFull when nobody has taken any for long, OSError when they cannot be written. After an error some of them
    may have been put: give the same ones again, under their ids.
    """
    given = list(conditions)
    folder = home / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for start in range(0, len(given), _A_FILE):
        if sum(1 for _ in os.scandir(folder)) >= FILES:
            raise SpoolFull("Alerts pile up: does the monitor run? `b3 status` tells, `b3 up` starts it.")
        text = _CONDITIONS.dump_json(given[start : start + _A_FILE]).decode()
        write_private(folder / f"{_moment():020d}-{uuid.uuid4().hex[:8]}.json", text)
    sync(folder)


@dataclass(frozen=True)
class Batch:
    """Conditions that wait, the oldest first, and the files that they are from."""

    conditions: list[Condition]
    files: list[Path]

    def remove(self) -> None:
        """They were applied, and that is safe: they are not given again."""
        for path in self.files:
            path.unlink(missing_ok=True)


def take(home: Path) -> Batch:
    """The oldest conditions that wait, a batch at most; the same ones again until they are removed.

    What is no condition of ours is put aside in the folder `damaged`, and said.
    """
    files = sorted(path for path in (home / FOLDER).glob("*.json") if not path.name.startswith("."))[:BATCH]
    read = {path: found for path in files if (found := _read(path)) is not None}
    return Batch([condition for found in read.values() for condition in found], [*read])


def clear_drafts(home: Path) -> None:
    """Deletes what processes that were killed while they wrote have left."""
    for path in [*(home / FOLDER).glob(".*"), *(home / FOLDER).parent.glob(".*")]:
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _FORGOTTEN_S:
                path.unlink()


def _read(path: Path) -> list[Condition] | None:
    try:
        return _CONDITIONS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        aside = path.parent / DAMAGED
        aside.mkdir(exist_ok=True)
        path.replace(aside / path.name)
        _log.error("%s holds no conditions: put aside in %s", path.name, aside)
        return None


def _moment() -> int:
    """Nanoseconds since 1970 that grow within this process whatever its clock does: the order of files."""
    global _last
    with _ordering:
        _last = max(_last + 1, time.time_ns())
        return _last
