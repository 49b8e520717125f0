"""A QuestDB of the benchmark's own: embedded, as `b3` starts it, in a temporary home, with the schema applied."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil

from b3_pipeline import processes
from b3_pipeline.ports import HOST, is_free
from b3_pipeline.progress import SILENT
from b3_pipeline.questdb import schema
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.questdb.jar import questdb_jar
from b3_pipeline.questdb.server import QuestDBServer
from b3_pipeline.settings import Ports, Settings


@contextmanager
def questdb(home: Path) -> Iterator[tuple[QuestDB, psutil.Process]]:
    """A client of a fresh server, which is stopped at the end of the block, and the server's process."""
    server = QuestDBServer(home, Ports(free_base()), Settings.model_fields["questdb_memory"].default)
    child = server.start(questdb_jar(SILENT))
    try:
        server.wait()
        with QuestDB(server.address, apply_timeout_s=600) as db:
            schema.apply(db, lambda: datetime.now(UTC))
            yield db, psutil.Process(child.pid)
    finally:
        processes.stop([child])


def make_empty(db: QuestDB, *tables: str) -> None:
    """Makes tables of ours anew, so that no measurement finds what another one left."""
    for table in tables:
        db.execute(f"DROP TABLE IF EXISTS {table}")
    schema.restore(db)


def free_base() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            base = probe.getsockname()[1] - 10
        if all(is_free(port) for port in range(base, base + 6)):
            return base


def cpu_seconds(process: psutil.Process) -> float:
    """What a process has used of processors so far."""
    used = process.cpu_times()
    return used.user + used.system
