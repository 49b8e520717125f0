"""Servers that a backup or restore runs for itself: in a home of their own that is gone afterwards, or in the one restored."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from b3_pipeline import processes
from b3_pipeline.ports import is_free
from b3_pipeline.postgres.server import PostgresServer
from b3_pipeline.processes import ServerDied
from b3_pipeline.progress import SILENT, Report
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.questdb.jar import questdb_jar
from b3_pipeline.questdb.server import QuestDBServer
from b3_pipeline.settings import Ports, Settings

FOLDER = "scratch"  # under the home: the disk that has room for its data
MEMORY = "512m"
_PORTS = range(10_000, 32_000, 10)


@contextmanager
def scratch(settings: Settings) -> Iterator[Path]:
    """A folder that only we can enter, gone after the block."""
    folder = Path(tempfile.mkdtemp(dir=settings.folder(FOLDER)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_scratch(settings: Settings) -> None:
    """Takes away what dead processes left, their servers first. For whoever holds the lock of backups."""
    for folder in settings.folder(FOLDER).iterdir():
        if folder.is_dir():
            for home in (folder, *folder.iterdir()):
                processes.end_leftovers(home)
            shutil.rmtree(folder, ignore_errors=True)


def free_ports() -> Ports:
    """Six ports that are free now, below the range that outgoing connections take theirs from. Raises ServerDied."""
    for base in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        if all(is_free(port) for port in range(base, base + 6)):
            return Ports(base)
    raise ServerDied("No six ports in a row are free from 10000 to 32000: a server for a while cannot be started.")


@contextmanager
def questdb_in(home: Path, ports: Ports, memory: str = MEMORY, report: Report = SILENT) -> Iterator[QuestDB]:
    """A client of the embedded QuestDB of a home, which runs for as long as the block lasts. Raises ServerDied."""
    server = QuestDBServer(home, ports, memory)
    child = server.start(questdb_jar(report))
    try:
        server.wait()
        with QuestDB(server.address) as db:
            yield db
    finally:
        processes.stop([child])


@contextmanager
def postgres_in(home: Path, report: Report = SILENT) -> Iterator[str]:
    """The DSN of the embedded PostgreSQL of a home, which runs for as long as the block lasts. Raises ServerDied."""
    server = PostgresServer(home)
    child = server.start(report)
    try:
        server.wait()
        yield server.dsn
    finally:
        processes.stop([child])
