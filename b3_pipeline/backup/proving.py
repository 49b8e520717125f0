"""What proves a backup: its files' hashes, and what servers have that were made of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from b3_pipeline.backup.backups import PARQUET, POSTGRES, QUESTDB, Backup, BackupDamaged, Manifest, parquet_of
from b3_pipeline.backup.dumping import counts, restore
from b3_pipeline.backup.packing import unpack
from b3_pipeline.places import Place
from b3_pipeline.progress import SILENT, Report
from b3_pipeline.questdb import schema
from b3_pipeline.questdb.client import ROWS_PER_REQUEST, QuestDB
from b3_pipeline.settings import Settings
from b3_pipeline.tables import TABLES, Table
from b3_pipeline.warehouse.exports import manifests, partitions, read, stored_checksum


def damaged(where: Place, backup: Backup, names: Iterable[str], report: Report = SILENT) -> list[str]:
    """What is wrong with these files of a backup, in sentences; nothing when each is there with its size and hash."""
    problems, of = list[str](), backup.manifest.files
    wanted = sorted({*names} & of.keys())
    with report.bytes("Reading the backup", sum(of[name].bytes for name in wanted)) as advance:
        for name in wanted:
            try:
                sound = where.sha256(f"{backup.id}/{name}") == of[name].sha256
                problem = "" if sound else f"{name} is damaged: its SHA-256 is not the manifest's."
            except FileNotFoundError:
                problem = f"{name} is missing."
            problems += [problem] if problem else []
            advance(of[name].bytes)
    return problems


def files_of(manifest: Manifest, form: str) -> list[str]:
    """The files that hold QuestDB's tables in a form."""
    return [QUESTDB] if form == "snapshot" else [name for name in manifest.files if name.startswith(f"{PARQUET}/")]


def unpack_snapshot(where: Place, backup: Backup, folder: Path, target: Path, report: Report = SILENT) -> None:
    """Puts the `questdb` folder of a backup into a folder; its server goes back to the checkpoint at its first start.

    `folder` is where the packed file lies meanwhile.
    """
    fetch(where, backup, QUESTDB, folder / QUESTDB)
    report("Unpacking QuestDB's data folder.")
    unpack(folder / QUESTDB, target)
    (folder / QUESTDB).unlink()


def fetch(where: Place, backup: Backup, name: str, local: Path) -> None:
    """Copies a file of a backup to this machine."""
    local.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    where.get(f"{backup.id}/{name}", local)


def load_parquet(where: Place, backup: Backup, db: QuestDB, settings: Settings, report: Report = SILENT) -> None:
    """Writes a backup's tables into a server that has none of their rows, or some of these; again, it changes nothing.

    Raises ExportError, QuestDBError.
    """
    schema.apply(db, settings.clock)
    source = parquet_of(where, backup.id)
    for name in backup.manifest.tables:
        table = _table(backup.manifest, name)
        report(f"Writing {name}.")
        pieces = (rows for manifest in manifests(source, table).values() for rows in read(source, manifest))
        for rows in _gathered(pieces):
            db.send(name, rows, timestamp=table.timestamp)
        db.wait_applied(name)


def _gathered(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in fewer pieces: a file is a day, and each send costs some milliseconds."""
    waiting = list[pa.Table]()
    for piece in pieces:
        waiting.append(piece)
        if sum(rows.num_rows for rows in waiting) >= ROWS_PER_REQUEST:
            yield pa.concat_tables(waiting).unify_dictionaries()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).unify_dictionaries()


def load_postgres(where: Place, backup: Backup, dsn: str, folder: Path) -> None:
    """Restores a backup's dump into a database without tables; one that has its tables is left as it is."""
    if counts(dsn):
        return
    fetch(where, backup, POSTGRES, folder / POSTGRES)
    restore(dsn, folder / POSTGRES)
    (folder / POSTGRES).unlink()


def differences(manifest: Manifest, db: QuestDB) -> list[str]:
    """Where a server's tables are not as a backup has them: partitions, rows, checksums; in sentences."""
    problems = list[str]()
    there = {name for (name,) in db.query("select table_name from tables()")}
    for name, state in manifest.tables.items():
        if name not in there:
            problems.append(f"{name} is missing.")
            continue
        db.wait_applied(name)
        found: dict[str, tuple[int, str]] = {}
        table = _table(manifest, name)
        for partition in partitions(db, table):
            summed = stored_checksum(db, table, partition.window)
            found[partition.name] = (summed.rows, summed.text())
        for partition in sorted({*found} | {*state.partitions}):
            was, now = state.partitions.get(partition, (0, "")), found.get(partition, (0, ""))
            if was != now:
                problems.append(f"{name} {partition}: {was[0]} rows in the backup, {now[0]} restored, or others.")
    return problems


def _table(manifest: Manifest, name: str) -> Table:
    if name not in TABLES:
        raise BackupDamaged(
            f"{name} is no table of this release: take the one that made the backup, {manifest.release}."
        )
    return TABLES[name]


def relational_differences(manifest: Manifest, dsn: str) -> list[str]:
    """Where a database's tables are not as a backup has them, by their number of rows; in sentences."""
    was, now = manifest.postgres_tables, counts(dsn)
    return [
        f"PostgreSQL's {name}: {was.get(name, 0)} rows in the backup, {now.get(name, 0)} restored."
        for name in sorted({*was} | {*now})
        if was.get(name) != now.get(name)
    ]
