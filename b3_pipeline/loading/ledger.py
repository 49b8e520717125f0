"""The ledger of loads: what each load counted, kept in `b3_loads`, and how a payload is known again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime

from b3_pipeline.questdb.client import QuestDB, as_arrow, named
from b3_pipeline.tables import TABLES

LOADS = TABLES["b3_loads"]
COUNTS = ("candidates", "loaded", "rejected", "duplicate", "absent")


@dataclass(frozen=True)
class Load:
    """A row of `b3_loads`. `candidates == loaded + rejected + duplicate + absent`, always; `ts` is UTC, naive.

    `outcome` is started (a process is at it, or died in it), partial (records outside its window are still open, and in
    none of the counts), loaded, or rejected (the payload as a whole).
    """

    ts: datetime
    load_id: int
    run_id: str
    table_name: str
    feed: str
    file: str
    sha256: str
    candidates: int = 0
    loaded: int = 0
    rejected: int = 0
    duplicate: int = 0
    absent: int = 0
    revised: int = 0
    bytes: int = 0
    seconds: float = 0.0
    outcome: str = "started"

    @property
    def counts(self) -> dict[str, int]:
        """The five counts of the accounting identity."""
        return {name: getattr(self, name) for name in COUNTS}


class Ledger:
    """Reads and writes `b3_loads`."""

    def __init__(self, db: QuestDB) -> None:
        self.db = db

    def known(self, sha256: str, table: str, feed: str) -> list[Load]:
        """The loads of this payload into this table, newest first."""
        self.db.wait_applied(LOADS.name)
        columns = [f.name for f in fields(Load)]
        rows = self.db.query(
            named(
                "select {columns} from b3_loads where sha256 = %s and table_name = %s and feed = %s order by load_id desc",
                columns=columns,
            ),
            sha256,
            table,
            feed,
        )
        return [Load(*row) for row in rows]

    def newest(self, file: str, table: str, feed: str) -> Load | None:
        """The newest load of a file of this name into this table that may have stored rows."""
        rows = self.db.query(
            named(
                "select {columns} from b3_loads where file = %s and table_name = %s and feed = %s "
                "and outcome != 'rejected' order by load_id desc limit 1",
                columns=[f.name for f in fields(Load)],
            ),
            file,
            table,
            feed,
        )
        return Load(*rows[0]) if rows else None

    def files(self, table: str, since: int = 0) -> dict[int, str]:
        """The file of each load into a table, from the load with the id `since` on."""
        query = "select load_id, file from b3_loads where table_name = %s and load_id >= %s"
        return dict(self.db.query(query, table, since))

    def new_id(self) -> int:
        """An id for a new load: µs since 1970, and above every id that was ever given, whatever the clock does.

        A greater id means a later load, which `judge` relies on. Real time, not the settings' clock, so that it grows
        while a day is replayed; some chance, so that two processes do not meet. Below 2**53: exact in any JSON reader.
        """
        newest = self.db.scalar("select max(load_id) from b3_loads") or 0
        return max(newest, time.time_ns() // 1_000) + 1 + secrets.randbelow(1_000)

    def write(self, load: Load) -> None:
        """Stores a load's row, over the one that it had. It is safe at once, and shows to `known`."""
        row = tuple(getattr(load, c.name) for c in LOADS.columns)
        self.db.send(LOADS.name, as_arrow([row], LOADS.arrow_schema()))


def recognise(known: list[Load], file: str, claimed: Collection[int]) -> Load | None:
    """Which earlier load of the same payload this is: the one of the same file, else one that no other file claims.

    A payload that lies in one folder under two names is two loads (the second all duplicates); one that was renamed
    since is the load that it was. A file that was in the same state more than once is its newest load each time.
    """
    own = next((load for load in known if load.file == file), None)
    return own or next((load for load in known if load.load_id not in claimed), None)
