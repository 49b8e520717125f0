"""Exporting many partitions and looking at what was exported: what `b3 export` and the exports' assets do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from b3_pipeline.identity import identified
from b3_pipeline.loading.load import quiet
from b3_pipeline.places import Place
from b3_pipeline.quality.stored import count, during
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.tables import Table
from b3_pipeline.warehouse.exports import (
    ExportError,
    Manifest,
    Partition,
    changed,
    export_partition,
    manifest_name,
    manifest_of,
    partitions,
    sound_and_damaged,
    verify,
)
from b3_pipeline.warehouse.retention_log import TakenAway, known, overlap

#: The file of a place that says which home's exports it has.
OWNER = "_home.json"


@dataclass(frozen=True)
class Item:
    """What came of a partition (its `name`): one of the `items` of `b3 export --json` and `b3 retention --json`.

    `sha256` is of the hashes of all its files, `path` its manifest's.
    """

    table: str
    name: str
    rows: int
    action: str
    bytes: int = 0
    sha256: str = ""
    path: str = ""
    why: str = ""

    @classmethod
    def of(cls, manifest: Manifest, place: Place, table: Table, action: str, why: str = "") -> Item:
        path = f"{place.url}/{manifest_name(table, manifest.partition)}"
        sizes = (manifest.bytes, manifest.sha256)
        return cls(table.name, manifest.partition, manifest.rows, action, *sizes, path, why)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Exporting:
    """Exports the tables of a home. `taken` is what a retention has taken away: of that the export is all there is.

    `progress` is told the rows read since the last call, `announce` what is exported next.
    """

    db: QuestDB
    home: Path
    place: Place
    clock: Callable[[], datetime]
    taken: TakenAway = field(default_factory=TakenAway)
    progress: Callable[[int], None] = quiet
    announce: Callable[[str], None] = quiet

    def work(self, tables: Iterable[Table], within: Window = ALWAYS) -> int:
        """How many rows `run` reads."""
        return sum(partition.rows for table in tables for partition in self._closed(table, within))

    def run(self, tables: Iterable[Table], within: Window = ALWAYS, *, again: bool = False) -> Iterator[Item]:
        """Exports the closed partitions of some tables that lie in a window; `again`: also what stands already.

        What a retention has taken away is never exported anew, whatever rows may be there of its time. Raises ExportError
        when the place has the exports of another home.
        """
        claim(self.place, self.home)
        for table in tables:
            for partition in self._closed(table, within):
                self.announce(f"{table.name} {partition.name}")
                yield self._exported(table, partition, again=again)

    def _exported(self, table: Table, partition: Partition, *, again: bool) -> Item:
        with alone(self.home, table):
            before = manifest_of(self.place, table, partition.name)
            if not count(self.db, table, during(table, partition.window)):
                return self._gone(table, partition, before)
            if self.is_taken(table, partition.window):
                why = "a retention has taken it away, and rows are there again: `b3 retention restore` settles it"
                return Item(table.name, partition.name, partition.rows, "left", why=why)
            manifest = self._export(table, partition, again=again)
        return Item.of(manifest, self.place, table, "unchanged" if manifest == before else "exported")

    def _gone(self, table: Table, partition: Partition, before: Manifest | None) -> Item:
        """A partition that was there when the run began, and that has no rows by now: its export stays."""
        if before is not None and self.is_taken(table, partition.window):
            return Item.of(before, self.place, table, "unchanged", "a retention has taken it away just now")
        why = "its rows are gone since this run began; what is exported of it stays"
        return Item(table.name, partition.name, partition.rows, "left", why=why)

    def export(self, table: Table, partition: Partition, *, again: bool = False) -> Manifest:
        """Exports one partition, which no retention has taken away; all its rows are compared with what is exported.

        Raises ExportError when it has no rows any more, and when the place has the exports of another home.
        """
        claim(self.place, self.home)
        with alone(self.home, table):
            return self._export(table, partition, again=again, thorough=True)

    def _export(self, table: Table, partition: Partition, **how: bool) -> Manifest:
        spool = self.home / "spool" / "exports"
        return export_partition(self.db, table, partition, self.place, self.clock(), spool, self.progress, **how)

    def verified(self, tables: Iterable[Table], within: Window = ALWAYS) -> Iterator[Item]:
        """Looks at every export of some tables in a window: `verified`, or what is wrong.

        That is damaged, changed (the table has other rows now), missing (a closed partition has none), or lost (a
        retention has dropped it, and what it exported before is not there).
        """
        for table in tables:
            sound, unreadable = sound_and_damaged(self.place, table)
            found = {n: m for n, m in sound.items() if overlap(m.window, within)}
            closed = {p.name: p for p in self._closed(table, within)}
            dropped = (
                {n for n in self.taken.exports.get(table.name, ()) if n not in sound} if within == ALWAYS else set()
            )
            for name in sorted({*found, *unreadable, *closed, *dropped}):
                self.announce(f"{table.name} {name}")
                yield self._judged(table, name, found.get(name), closed.get(name), name in unreadable)

    def _judged(
        self, table: Table, name: str, manifest: Manifest | None, partition: Partition | None, unreadable: bool
    ) -> Item:
        dropped = self.taken.exports.get(table.name, {}).get(name)
        if dropped is not None and (manifest is None or manifest.checksum != dropped):
            why = (
                "A retention has dropped it, and the export that it relied on is not there any more: bring the files back "
                "from a copy of the place; the warehouse and the backups of before may have the rows."
            )
            return Item(table.name, name, 0, "lost", why=why)
        if manifest is None:
            action, why = (
                ("damaged", "Its manifest cannot be read.") if unreadable else ("missing", "Not exported yet.")
            )
            return Item(table.name, name, partition.rows if partition else 0, action, why=why)
        self.progress(manifest.rows)
        if problems := verify(self.place, manifest):
            return Item.of(manifest, self.place, table, "damaged", " ".join(problems))
        if not self.is_taken(table, manifest.window) and (problems := changed(self.db, manifest)):
            return Item.of(manifest, self.place, table, "changed", " ".join(problems))
        return Item.of(manifest, self.place, table, "verified")

    def is_taken(self, table: Table, window: Window) -> bool:
        """Whether a retention has taken away what the table had of a partition's time, as this home knows by now."""
        windows = [w for said in (self.taken, known(None, self.home)) for w in said.windows.get(table.name, ())]
        return any(overlap(window, taken) for taken in windows)

    def _closed(self, table: Table, within: Window) -> list[Partition]:
        return [p for p in partitions(self.db, table) if not p.newest and overlap(p.window, within)]


def claim(place: Place, home: Path, *, take_over: bool = False) -> None:
    """Makes a place that of a home's exports, where it is nobody's yet; `take_over`: also where it is another home's.

    Two homes in one place would each take the other's exports for its own of an earlier content. Raises ExportError.
    """
    mine = identified(home)
    owner = mine if take_over else _owner(place)
    if take_over or owner is None:
        place.write(OWNER, json.dumps({"home": mine}).encode())
        owner = _owner(place)
    if owner != mine:
        raise ExportError(
            f"{place.url} has the exports of another home ({owner}; this one is {mine}), and would lose them. Give this home "
            "a place of its own (B3_EXPORTS_URL, or --into); if it takes that home's place for good, say so once with "
            "`b3 export --take-over`."
        )


def _owner(place: Place) -> str | None:
    try:
        return str(json.loads(place.read(OWNER))["home"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return "nobody knows which: its _home.json cannot be read"


@contextmanager
def alone(home: Path, table: Table) -> Iterator[None]:
    """One export of a table at a time, and no retention takes anything of it away; loads into it go on."""
    folder = home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{table.name}.export.lock"):
        yield
