"""One process a table: what reads a table to decide what to write to it holds the table's lock meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from b3_pipeline.errors import B3Error
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.tables import Table


class TableBusy(B3Error):
    """Another process has been loading into a table for longer than we care to wait."""


@contextmanager
def holding(db: QuestDB, home: Path, table: Table, patience_s: float | None = None) -> Iterator[None]:
    """Holds a table of the home; everything that was sent to it so far shows, also what a killed process sent.

    Raises TableBusy when another process holds it for longer than `patience_s` (None: waits as long as it takes),
    NotApplied when what was sent does not show.
    """
    folder = home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{table.name}.lock")
    try:
        lock.acquire(timeout=-1 if patience_s is None else patience_s)
    except Timeout:
        raise TableBusy(f"Another process has been loading into {table.name} for {patience_s:.0f} s.") from None
    try:
        db.forget_imports(table.name)
        db.wait_applied(table.name)  # what does not show yet could not be compared
        yield
    finally:
        lock.release()
