"""Retention: old partitions leave QuestDB once they are safely elsewhere, and come back when somebody needs them.

A partition is dropped only when it lies wholly beyond its table's limit, is not the newest, no hold covers any of it, its
export was verified just now, file by file and against the rows under the table's lock, and the warehouse has loaded
exactly this export where it is to have it. It is entered in the log before (the intent) and after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from psycopg import sql

from b3_pipeline import migration_log
from b3_pipeline.errors import UsageError
from b3_pipeline.failpoints import reached
from b3_pipeline.loading.compare import any_of, differing, key_ids, unify
from b3_pipeline.loading.load import quiet
from b3_pipeline.loading.locks import holding
from b3_pipeline.loading.taken import Taken, TakenUnreadable
from b3_pipeline.places import Place, PlaceError, exports_of
from b3_pipeline.quality.stored import count, during, partition_of
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.sessions import Window
from b3_pipeline.settings import Settings
from b3_pipeline.tables import TABLES, Table
from b3_pipeline.warehouse.exporting import Exporting, Item, alone
from b3_pipeline.warehouse.exports import (
    ExportError,
    Manifest,
    Partition,
    changed,
    manifest_of,
    partitions,
    read,
    read_day,
    rows_of,
    stored_checksum,
    verify,
)
from b3_pipeline.warehouse.retention_log import (
    Entry,
    Held,
    RetentionError,
    RetentionLog,
    Rule,
    TakenAway,
    keep,
    known,
    overlap,
    taken_away,
)

#: The steps of a run and of a restore at which a test ends the process.
STEPS = (
    "retention: exported",
    "retention: intent noted",
    "retention: partition dropped",
    "retention: drop noted",
)
RESTORE_STEPS = ("restore: hold put", "restore: rows sent", "restore: rows proven", "restore: noted")
#: Whether the warehouse has exactly the export of a table's partition with this checksum.
Loaded = Callable[[str, str, str], bool]


def limited() -> list[Table]:
    """The tables whose rows may be taken away, each before those that outlive it."""
    return sorted((t for t in TABLES.values() if t.retention_days), key=lambda table: table.outlives is not None)


def is_on(table: Table, rules: Mapping[str, Rule]) -> bool:
    """Whether a table's retention is on: as somebody has set it, else as the table's contract says."""
    rule = rules.get(table.name)
    return rule.enabled if rule else table.expires


def is_due(table: Table, window: Window, now: datetime) -> bool:
    """Whether a partition lies wholly beyond the table's limit (`now` is UTC)."""
    days = table.retention_days
    return days is not None and window.bounds()[1] <= now.replace(tzinfo=None) - timedelta(days=days)


@dataclass(frozen=True)
class Retention:
    """Takes old partitions away, and brings them back. `log` is open as long as this is used.

    `progress` is told the rows read since the last call, `announce` what is looked at next.
    """

    db: QuestDB
    home: Path
    place: Place
    clock: Callable[[], datetime]
    log: RetentionLog
    loaded: Loaded
    who: str
    progress: Callable[[int], None] = quiet
    announce: Callable[[str], None] = quiet
    exporting: Exporting = field(init=False)

    def __post_init__(self) -> None:
        exporting = Exporting(self.db, self.home, self.place, self.clock, TakenAway(), self.progress)
        object.__setattr__(self, "exporting", exporting)

    def work(self) -> int:
        """How many rows the due partitions have."""
        return sum(partition.rows for _table, partition in self._due())

    def look(self) -> Iterator[Item]:
        """What a run would do now with each partition beyond its limit: `would be dropped`, or kept and why."""
        going: set[tuple[str, str]] = set()
        for table, partition in self._due():
            self.announce(f"{table.name} {partition.name}")
            manifest = manifest_of(self.place, table, partition.name)
            why = self._why_kept(table, partition, going) or self._why_not_safe(table, partition, manifest)
            if not why:
                going.add((table.name, partition.name))
            action = "kept" if why else "would be dropped"
            yield self._item(table, partition, manifest, action, why or self._age(table))

    def run(self) -> Iterator[Item]:
        """Exports, verifies and drops what is beyond its limit; `dropped`, or kept or damaged and why.

        What an interrupted run has begun is finished first. Raises RetentionError when another run is at it.
        """
        started, dropped = time.monotonic(), list[Item]()
        with self.log.alone():
            try:
                for item in self._treated_in_turn():
                    dropped += [item] if item.action == "dropped" else []
                    yield item
            finally:
                self._tell_others()
                if dropped:
                    self._write_down(dropped, time.monotonic() - started)

    def restore(self, table: Table, partition: str, why: str) -> list[Item]:
        """Brings a partition back out of its export, and puts a hold on it, or the next run would drop it again.

        What outlives the table comes back first, so that a deleted signal stays deleted. Raises UsageError when it was
        not taken away, ExportError when its export is damaged, RetentionError when there are other rows of its time.
        """
        started = time.monotonic()
        with self.log.alone():
            list(self._finished())
            entries = self._to_restore(table, partition)
            try:
                items = [self._restored(entry, why) for entry in entries]
            finally:
                self._tell_others()
        self._write_restored(items, why, time.monotonic() - started)
        return items

    # What is beyond its limit, and what of it stays.

    def _due(self) -> list[tuple[Table, Partition]]:
        now = self.clock()
        return [(t, p) for t in limited() for p in partitions(self.db, t) if is_due(t, p.window, now)]

    def _why_kept(self, table: Table, partition: Partition, going: Iterable[tuple[str, str]] = ()) -> str:
        """Why a partition that is beyond its limit stays in any case; empty when nothing speaks for it."""
        if not is_on(table, self.log.rules()):
            return f'the retention of {table.name} is off: `b3 retention enable {table.name} --why "…"`'
        if partition.newest:
            return "it is the newest partition, which is never dropped"
        if held := [h for h in self.log.holds() if h.table_name == table.name and h.covers(partition.window)]:
            return f"hold {held[0].id} covers it: {held[0].why}"
        if any((e.table_name, e.partition) == (table.name, partition.name) for e in self.log.standing()):
            return f"it was taken away, and rows are there again: `b3 retention restore {table.name} {partition.name}`"
        return self._why_outlived(table, partition.window, going)

    def _why_outlived(self, table: Table, window: Window, going: Iterable[tuple[str, str]] = ()) -> str:
        if table.outlives is None:
            return ""
        other = TABLES[table.outlives]
        left = [p for p in partitions(self.db, other) if overlap(p.window, window)]
        if all((other.name, p.name) in set(going) for p in left):
            return ""
        return f"{other.name} still has rows of its time"

    def _why_not_safe(self, table: Table, partition: Partition, manifest: Manifest | None) -> str:
        """Why a run would not drop a partition after having exported it; nothing is exported for this."""
        fresh = manifest is not None and not verify(self.place, manifest, self.db)
        self.progress(partition.rows)
        if _of_warehouse(table) and not (fresh and manifest and self._is_loaded(manifest)):
            return "the warehouse has not loaded it as it is: `b3 export`, then `b3 warehouse load`"
        return ""

    def _is_loaded(self, manifest: Manifest) -> bool:
        return self.loaded(manifest.table, manifest.partition, manifest.checksum)

    def _age(self, table: Table) -> str:
        return f"older than {table.retention_days} days"

    # Taking away.

    def _treated_in_turn(self) -> Iterator[Item]:
        yield from self._finished()
        for table, partition in self._due():
            self.announce(f"{table.name} {partition.name}")
            yield self._treated(table, partition)

    def _treated(self, table: Table, partition: Partition) -> Item:
        if why := self._why_kept(table, partition):
            return self._item(table, partition, manifest_of(self.place, table, partition.name), "kept", why)
        manifest, problems = self._exported(table, partition)
        if problems:
            return self._item(table, partition, manifest, "damaged", " ".join(problems))
        reached(STEPS[0])
        if _of_warehouse(table) and not self._is_loaded(manifest):
            why = "the warehouse has not loaded it as it is: `b3 warehouse load`"
            return self._item(table, partition, manifest, "kept", why)
        return self._taken(table, partition, manifest)

    def _exported(self, table: Table, partition: Partition) -> tuple[Manifest, list[str]]:
        """The export of a partition, and what is wrong with its files; a damaged one is made anew, once."""
        manifest = self.exporting.export(table, partition)
        problems = verify(self.place, manifest)
        if problems:
            manifest = self.exporting.export(table, partition, again=True)
            problems = verify(self.place, manifest)
        return manifest, problems

    def _taken(self, table: Table, partition: Partition, manifest: Manifest) -> Item:
        """Drops a partition that may go, when all that can have changed by now still says so.

        Nobody writes meanwhile, and nobody exports: an export would find no rows of what it has just listed.
        """
        with alone(self.home, table), holding(self.db, self.home, table):
            if not is_on(table, self.log.rules()):
                return self._item(table, partition, manifest, "kept", "its retention was switched off meanwhile")
            there = partitions(self.db, table)
            if not there or there[-1].name == partition.name:
                return self._item(table, partition, manifest, "kept", "it is the newest partition by now")
            if problems := changed(self.db, manifest) or [*filter(None, [self._why_outlived(table, partition.window)])]:
                return self._item(table, partition, manifest, "kept", problems[0])
            try:
                entry = self._intended(table, manifest)
            except Held as held:
                return self._item(table, partition, manifest, "kept", str(held))
            reached(STEPS[1])
            self._tell_others()  # before anybody can see that the rows are gone
            self._drop(table, manifest)
            reached(STEPS[2])
            self.log.dropped(entry, self.clock())
            reached(STEPS[3])
        return self._item(table, partition, manifest, "dropped", self._age(table))

    def _intended(self, table: Table, manifest: Manifest) -> Entry:
        more = {"loads": self._loads(table, manifest), "days": table.retention_days, "who": self.who}
        about = (table.name, manifest.partition, manifest.window, manifest.rows, manifest.checksum)
        return self.log.intend(*about, **more, at=self.clock())

    def _loads(self, table: Table, manifest: Manifest) -> dict[str, int]:
        """How many rows of a partition each load has brought; under 0 where rows name none."""
        if not table.has_feed:
            return {"0": manifest.rows}
        where = during(table, manifest.window)
        query = named("select load_id, count() from {t} where ", t=table.name) + where.text
        return {str(load or 0): n for load, n in self.db.query(query + named(" group by load_id"), *where.values)}

    def _drop(self, table: Table, manifest: Manifest) -> None:
        drop = named("ALTER TABLE {t} DROP PARTITION LIST ", t=table.name) + sql.Literal(manifest.partition)
        self.db.execute(drop.as_string())
        self.db.wait_applied(table.name)
        if left := count(self.db, table, during(table, manifest.window)):
            raise RetentionError(
                f"{table.name} {manifest.partition} was dropped and still has {left} rows: run it again, or see "
                "QuestDB's log. What was dropped is in the export."
            )

    def _finished(self) -> Iterator[Item]:
        """Settles the intents of runs that died: the partition is gone, or it never went and is looked at anew.

        It never went when it has no fewer rows than it had: it goes as a whole. Fewer are rows that came afterwards; they
        must not take the place of its export.
        """
        for entry in self.log.standing():
            table = TABLES.get(entry.table_name)
            if entry.state != "intended" or table is None:
                continue
            with holding(self.db, self.home, table):
                if count(self.db, table, during(table, entry.window)) >= entry.rows:
                    self.log.abandoned(entry, self.clock())
                    continue
                self.log.dropped(entry, self.clock())
            why = "a run that was interrupted had dropped it"
            partition = Partition(entry.partition, entry.window, entry.rows, newest=False)
            yield self._item(table, partition, manifest_of(self.place, table, entry.partition), "dropped", why)

    # Bringing back.

    def _to_restore(self, table: Table, partition: str) -> list[Entry]:
        """The entry of a partition, and before it those of what must be there with it."""
        standing = {(e.table_name, e.partition): e for e in self.log.standing()}
        entry = standing.get((table.name, partition))
        if entry is None:
            raise UsageError(
                f"{table.name} {partition} was not taken away, or is back: `b3 retention log` lists what was."
            )
        later = [t.name for t in TABLES.values() if t.outlives == table.name]
        with_it = [e for e in standing.values() if e.table_name in later and overlap(e.window, entry.window)]
        return [*with_it, entry]

    def _restored(self, entry: Entry, why: str) -> Item:
        table = TABLES[entry.table_name]
        manifest = self._sound_export(table, entry)
        with holding(self.db, self.home, table):
            self._require_nothing_else(table, manifest)
            self.log.hold(table.name, entry.window, self.who, f"restored: {why}", self.clock())
            reached(RESTORE_STEPS[0])
            for piece in read(self.place, manifest):
                self.db.send(table.name, piece, table.timestamp)
                self.progress(piece.num_rows)
            reached(RESTORE_STEPS[1])
            self.db.wait_applied(table.name)
            found = stored_checksum(self.db, table, manifest.window)
            if (found.rows, found.text()) != (manifest.rows, manifest.checksum):
                raise RetentionError(
                    f"{table.name} {entry.partition} has {found.rows} rows now and not the {manifest.rows} of its export. "
                    "Run it again; if it stays so, look into QuestDB's log."
                )
            reached(RESTORE_STEPS[2])
            self.log.restored(entry, self.who, why, self.clock())
        reached(RESTORE_STEPS[3])
        return Item.of(manifest, self.place, table, "restored")

    def _sound_export(self, table: Table, entry: Entry) -> Manifest:
        """The export of what was taken away, proven. Raises ExportError."""
        manifest = manifest_of(self.place, table, entry.partition)
        if manifest is None:
            raise ExportError(
                f"{table.name} {entry.partition} has no export that can be read in {self.place}. A backup of that folder, or "
                "the warehouse, has its rows."
            )
        problems = verify(self.place, manifest)
        if not problems and manifest.checksum != entry.checksum:
            problems = ["It is not the export of the rows that were taken away."]
        if problems:
            raise ExportError(
                f"{table.name} {entry.partition} is not restored, for its export is damaged: {problems[0]}"
            )
        return manifest

    def _require_nothing_else(self, table: Table, manifest: Manifest) -> None:
        """Raises RetentionError when there are rows of a partition that its export has not, or has otherwise."""
        for rows in rows_of(self.db, table, manifest.window):
            for day in np.unique(rows.column(table.timestamp).to_numpy().astype("datetime64[D]")):
                exported = read_day(self.place, manifest, day.astype("datetime64[us]").item())
                on_it = pa.array(rows.column(table.timestamp).to_numpy().astype("datetime64[D]") == day)
                if not _all_among(table, rows.filter(on_it), exported):
                    raise RetentionError(
                        f"{table.name} {manifest.partition} is not restored: there are rows of {day} that its export has not. "
                        "Nothing was changed. Look at them with `b3 sql`; drop them there when they may go."
                    )

    # What others are told.

    def _item(self, table: Table, partition: Partition, manifest: Manifest | None, action: str, why: str) -> Item:
        if manifest is None:
            return Item(table.name, partition.name, partition.rows, action, why=why)
        return Item.of(manifest, self.place, table, action, why)

    def _tell_others(self) -> None:
        """What counts as taken away from now on, also for processes that cannot ask PostgreSQL."""
        keep(self.home, taken_away(self.log.standing()))

    def _write_down(self, items: Sequence[Item], seconds: float) -> None:
        title = f"Retention: {len(items)} partitions, {sum(item.rows for item in items)} rows taken away"
        way_back = "`b3 retention restore TABLE PARTITION` for each of them, out of the exports"
        self._write("retention", title, items, seconds, way_back, "; ".join(sorted({item.why for item in items})))

    def _write_restored(self, items: Sequence[Item], why: str, seconds: float) -> None:
        title = f"Restored: {', '.join(f'{item.table} {item.name}' for item in items)}"
        way_back = "`b3 retention release` of the hold on it: the next run takes it away again"
        self._write("restore", title, items, seconds, way_back, why)

    def _write(self, kind: str, title: str, items: Sequence[Item], seconds: float, way_back: str, why: str) -> None:
        step = migration_log.Step(
            kind,
            title,
            self.clock(),
            "done",
            seconds,
            way_back,
            why,
            self.who,
            counts={f"{item.table} {item.name}": {"rows": item.rows, "bytes": item.bytes} for item in items},
            checksums={f"{item.table} {item.name}": item.sha256 for item in items},
            files=[item.path for item in items],
        )
        migration_log.write(self.home, step)


def _all_among(table: Table, rows: pa.Table, exported: pa.Table) -> bool:
    """Whether each row is one of the exported rows, but for when and by which load it was written."""
    keys = list(table.keys)
    ids = key_ids(unify([exported.select(keys), rows.select(keys)]), keys)
    places = np.full(len(ids), -1)
    places[ids[: exported.num_rows]] = np.arange(exported.num_rows)
    at = places[ids[exported.num_rows :]]
    if (at < 0).any():
        return False
    return not any_of(differing(rows, exported.take(at), table.values).values(), rows.num_rows).any()


def _of_warehouse(table: Table) -> bool:
    from b3_pipeline.warehouse.model import WAREHOUSE_TABLES

    return table in WAREHOUSE_TABLES


def expired(dsn: str | None, home: Path) -> Mapping[str, Sequence[Window]]:
    """What a retention has taken away and nobody restored, by table; the last known state while PostgreSQL is away."""
    return known(dsn, home).windows


def retention_of(
    settings: Settings, db: QuestDB, dsn: str, log: RetentionLog, who: str, place: Place | None = None, **more: Any
) -> Retention:
    """The retention of a home. `more` are its other members."""
    from b3_pipeline.warehouse.loaded import loaded

    where = place or exports_of(settings)
    return Retention(db, settings.home, where, settings.clock, log, partial(loaded, dsn), who, **more)


def taken_of(settings: Settings) -> Taken:
    """What the loads of a home are told of taken rows. PostgreSQL is asked when a load asks."""
    return _OfHome(settings).taken


class _OfHome:
    """What was taken away in a home; each manifest is read once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._manifests: dict[tuple[str, str], Manifest | None] = {}

    @property
    def taken(self) -> Taken:
        return Taken(self._windows, self._rows, self._of_load)

    def _known(self) -> TakenAway:
        from b3_pipeline.services import running  # here, for it is no part of what definitions need

        own = self.settings.postgres_dsn
        servers = None if own else running(self.settings)
        return known(own.get_secret_value() if own else servers and servers.postgres_dsn, self.settings.home)

    def _windows(self, table: Table) -> Sequence[Window]:
        return self._known().windows.get(table.name, ()) if table.retention_days else ()

    def _of_load(self, table: Table, load_id: int) -> int:
        return self._known().rows.get(table.name, {}).get(load_id, 0) if table.retention_days else 0

    def _rows(self, table: Table, day: datetime) -> pa.Table:
        try:
            manifest = self._manifest(table, partition_of(table, day))
            if manifest is None:
                raise TakenUnreadable(f"{table.name} has no export of {day:%Y-%m-%d} that can be read.")
            return read_day(exports_of(self.settings), manifest, day)
        except (ExportError, PlaceError, OSError) as error:
            raise TakenUnreadable(str(error)) from error

    def _manifest(self, table: Table, partition: str) -> Manifest | None:
        key = (table.name, partition)
        if key not in self._manifests:
            self._manifests[key] = manifest_of(exports_of(self.settings), table, partition)
        return self._manifests[key]
