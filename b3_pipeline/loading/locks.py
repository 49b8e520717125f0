"""One process a table: what reads a table to decide what to write to it holds the table's lock meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.tables import Table


@contextmanager
def holding(db: QuestDB, home: Path, table: Table) -> Iterator[None]:
    """Holds a table of the home; everything that was sent to it so far shows, also what a killed process sent.

    Raises NotApplied when it does not show.
    """
    folder = home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{table.name}.lock"):
        db.forget_imports(table.name)
        db.wait_applied(table.name)  # what does not show yet could not be compared
        yield
