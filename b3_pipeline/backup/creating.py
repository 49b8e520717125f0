"""Making a backup: one moment of both databases and of the home's folders, proven to open, with its manifest last."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from b3_pipeline.backup import tidying
from b3_pipeline.backup.backups import (
    FOLDERS,
    MANIFEST,
    PARQUET,
    POSTGRES,
    QUESTDB,
    SETTINGS,
    Backup,
    Manifest,
    Stored,
    TableState,
    alone,
    backups,
    file_of,
    find,
    own,
    parquet_of,
)
from b3_pipeline.backup.dumping import dump, size
from b3_pipeline.backup.keeping import kept
from b3_pipeline.backup.packing import Content, by_name, files_in, pack, size_of
from b3_pipeline.backup.redacting import without_secrets
from b3_pipeline.backup.throwaway import FOLDER, free_ports, questdb_in, scratch
from b3_pipeline.failpoints import reached
from b3_pipeline.home import DiskFull
from b3_pipeline.identity import home_id, identified
from b3_pipeline.loading.locks import holding
from b3_pipeline.places import Place, backups_of
from b3_pipeline.postgres.flags import user
from b3_pipeline.processes import ServerDied
from b3_pipeline.progress import SILENT, Report
from b3_pipeline.questdb import checkpoint, schema
from b3_pipeline.questdb.client import QuestDB, QuestDBError
from b3_pipeline.services import Engines
from b3_pipeline.settings import Settings
from b3_pipeline.tables import TABLES
from b3_pipeline.warehouse.exports import export_partition, manifest_name, partitions

#: The steps of a backup at which a test ends the process.
STEPS = (
    "backup: begun",
    "backup: checkpoint created",
    "backup: data folder copied",
    "backup: checkpoint released",
    "backup: all taken",
    "backup: Parquet stored",
    "backup: a file stored",
    "backup: manifest written",
    "backup: an old one chosen",
    "backup: an old one gone",
)
#: How long a backup waits for a load that goes on, in seconds; the loads that come meanwhile wait behind it.
PATIENCE_S = 120
#: How often a copy is made in all, when writers that hold no lock of ours have spoiled it.
ATTEMPTS = 3
ARCHIVE = "archive"
#: In the raw archive what refers comes before what is referred to.
_ORDER = ("entries", "payloads")
#: Where notes of the archive lie until it is packed.
_NOTES = "notes"


class SnapshotSpoiled(QuestDBError):
    """The copy of QuestDB's data folder cannot be opened."""


def create(settings: Settings, servers: Engines, report: Report = SILENT) -> Backup:
    """Makes a backup, and takes away those that are not to be kept any longer.

    Loads wait while the moment is taken: the data folder is copied, PostgreSQL dumped, small folders packed. Raises
    DiskFull before anything is written, BackupBusy, TableBusy, PlaceError, and B3Error for what else can go wrong.
    """
    where = backups_of(settings)
    with alone(settings):
        if left := tidying.tidy(settings):
            report(f"Took away what an interrupted command had left: {', '.join(left)}.")
        require_room(settings, where, servers)
        identified(settings.home)
        with scratch(settings) as folder:
            made = _Making(settings, servers, where, folder, report).run()
        _keep(settings, where, report)
    return made


def require_room(settings: Settings, where: Place, servers: Engines) -> None:
    """Raises DiskFull when a backup would leave less free than `min_free_disk_mb`: here, or where backups go."""
    relational = size(servers.postgres_dsn)
    data = 0 if settings.questdb_url else size_of(settings.home / "questdb" / "db")
    rest = relational + sum(size_of(settings.home / name) for name in FOLDERS)
    # packed, data is less than half of what it was: most of a small home's is room that QuestDB has set aside
    wanted = {settings.folder(FOLDER): data + data // 2 + rest}
    if "://" not in where.url:
        there = next(p for p in (Path(where.url), *Path(where.url).parents) if p.exists())
        wanted[there] = data + rest
    by_disk: dict[int, tuple[Path, int]] = {}
    for folder, need in wanted.items():
        disk = folder.stat().st_dev
        by_disk[disk] = (folder, by_disk.get(disk, (folder, 0))[1] + need)
    for folder, need in by_disk.values():
        free = shutil.disk_usage(folder).free
        if free - need < settings.min_free_disk_mb << 20:
            raise DiskFull(
                f"A backup needs about {need >> 20} MB in {folder}, and {free >> 20} MB are free, of which "
                f"{settings.min_free_disk_mb} stay so (B3_MIN_FREE_DISK_MB). Make room, or set B3_BACKUPS_URL to another "
                "disk."
            )


def _keep(settings: Settings, where: Place, report: Report) -> None:
    """Takes away the home's backups that no rule keeps; the newest one that is proven always stays."""
    there = own(backups(where)[0], home_id(settings.home))
    proven = [backup.id for backup in there if backup.verified_at][-1:]
    stays = kept({b.id: b.at for b in there}, settings.backups_daily, settings.backups_weekly, settings.backups_monthly)
    old = [backup.id for backup in there if backup.id not in {*stays, *proven}]
    tidying.note(settings, old)
    if old:
        reached(STEPS[8])
    for backup_id in old:
        tidying.drop(where, backup_id)
        reached(STEPS[9])
        report(f"Took the backup {backup_id} away: newer ones stand for it.")
    tidying.forget(settings, old)


@dataclass
class _Making:
    """One backup while it is made."""

    settings: Settings
    servers: Engines
    where: Place
    folder: Path
    report: Report
    files: dict[str, Stored] = field(default_factory=dict)
    tables: dict[str, TableState] = field(default_factory=dict)
    packed: dict[str, Content] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.at: datetime = self.settings.clock()
        self.id = f"{self.at:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.snapshot = self.settings.questdb_url is None

    def run(self) -> Backup:
        tidying.note(self.settings, [self.id])
        reached(STEPS[0])
        with QuestDB(self.servers.questdb) as db:
            build = str(db.scalar("select build()"))
            history = schema.history(db)
            relational = self._questdb(db)
        reached(STEPS[5])
        self._store()
        manifest = self._manifest(build, history, relational)
        self.where.write(f"{self.id}/{MANIFEST}", manifest.data())
        reached(STEPS[7])
        tidying.forget(self.settings, [self.id])
        return find(self.where, self.id, home_id(self.settings.home))

    def _questdb(self, db: QuestDB) -> tuple[dict[str, int], str]:
        """Takes the moment and the tables' Parquet form of it; gives PostgreSQL's row counts and version."""
        for attempt in range(1, ATTEMPTS + 1):
            relational = self._take(db)
            if not self.snapshot:
                return relational
            try:
                self._prove()
                return relational
            except SnapshotSpoiled:
                if attempt == ATTEMPTS:
                    raise
                self.report("Somebody wrote past our locks while the data folder was copied: once more.")
        raise AssertionError("the last attempt returns or raises")

    def _take(self, db: QuestDB) -> tuple[dict[str, int], str]:
        """One moment of everything, in the scratch folder; no load of ours is half done in it."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with self._still(db):
            if self.snapshot:
                self._copy(db)
            self.report("Dumping PostgreSQL.")
            relational = dump(self.servers.postgres_dsn, self.folder / POSTGRES)
            self._folders()
            if not self.snapshot:
                self.remarks.append("QuestDB is a server of one's own: its tables are there as Parquet alone.")
                self._export(db)
        self._archive()
        reached(STEPS[4])
        return relational

    @contextmanager
    def _still(self, db: QuestDB) -> Iterator[None]:
        """No load is in the middle of a table for as long as the block lasts."""
        there = {name for (name,) in db.query("select table_name from tables()")}
        with ExitStack() as stack:
            for name, table in TABLES.items():
                if name in there:
                    stack.enter_context(holding(db, self.settings.home, table, PATIENCE_S))
            yield

    def _copy(self, db: QuestDB) -> None:
        self.report("Copying QuestDB's data folder.")
        with checkpoint.checkpointed(db):
            reached(STEPS[1])
            checkpoint.copy(self.settings.home / "questdb", self.folder / "home" / "questdb")
            reached(STEPS[2])
        reached(STEPS[3])

    def _folders(self) -> None:
        home = self.settings.home
        for name in FOLDERS:
            if (home / name).is_dir() and name != ARCHIVE:
                self._pack(by_name(home, files_in(home / name)), file_of(name))
        for note in archive_notes(home / ARCHIVE):
            kept = self.folder / _NOTES / note.relative_to(home)
            kept.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                shutil.copyfile(note, kept)
        if (home / SETTINGS).exists():
            text, left_out = without_secrets((home / SETTINGS).read_text("utf-8"))
            (self.folder / SETTINGS).write_text(text, "utf-8")
            self.remarks += [f"settings.toml is without {what}." for what in left_out]

    def _archive(self) -> None:
        """The archive's notes as of the moment, and what is there by now: what came in since is still to be loaded.

        Loads go on meanwhile, for it may be much.
        """
        home, notes = self.settings.home, self.folder / _NOTES
        if (home / ARCHIVE).is_dir():
            there = by_name(home, archive_content(home / ARCHIVE))
            self._pack(by_name(notes, files_in(notes)) | there, file_of(ARCHIVE))
        shutil.rmtree(notes, ignore_errors=True)

    def _pack(self, files: Mapping[str, Path], name: str) -> None:
        with self.report.bytes(f"Packing {name}", sum(map(size_of, files.values()))) as advance:
            self.packed[name] = pack(files, self.folder / name, advance)

    def _prove(self) -> None:
        """Packs the copy of the data folder, opens it, and exports its tables. Raises SnapshotSpoiled."""
        home = self.folder / "home"
        self._pack(by_name(home, files_in(home / "questdb")), QUESTDB)
        self.report("Opening the copy, and writing its tables as Parquet.")
        try:
            with questdb_in(home, free_ports()) as copied:
                self._export(copied)
        except (ServerDied, QuestDBError) as error:
            raise SnapshotSpoiled(f"The copy of QuestDB's data folder cannot be opened: {error}") from error
        shutil.rmtree(home)

    def _export(self, db: QuestDB) -> None:
        """Every partition of every table as Parquet, in the place itself; what it has are the backup's counts."""
        there = {name for (name,) in db.query("select table_name from tables()")}
        target, self.files, self.tables = parquet_of(self.where, self.id), {}, {}
        for name, table in TABLES.items():
            if name not in there:
                continue
            db.wait_applied(name)  # what was written past our locks may be in the copy's journal only
            found: dict[str, tuple[int, str]] = {}
            for partition in partitions(db, table):
                made = export_partition(db, table, partition, target, self.at, self.folder / "spool")
                found[made.partition] = (made.rows, made.checksum)
                text = made.text().encode()
                stored = {file.name: Stored(file.bytes, file.sha256) for file in made.files}
                stored[manifest_name(table, made.partition)] = Stored(len(text), hashlib.sha256(text).hexdigest())
                self.files.update({f"{PARQUET}/{file}": of for file, of in stored.items()})
            self.tables[name] = TableState.of(found)

    def _store(self) -> None:
        """Puts what lies in the scratch folder into the place, with the hash that it has here."""
        for path in sorted(self.folder.glob("*.*")):
            with path.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            self.files[path.name] = Stored(path.stat().st_size, sha256)
            self.where.put(path, f"{self.id}/{path.name}")
            path.unlink()
            reached(STEPS[6])

    def _manifest(
        self, build: str, history: Mapping[int, schema.Applied], relational: tuple[dict[str, int], str]
    ) -> Manifest:
        applied = ({"version": a.version, "name": a.name, "checksum": a.checksum} for a in history.values())
        folder = self.settings.home / "secrets"
        return Manifest(
            id=self.id,
            at=self.at,
            who=user(),
            release=version("b3-pipeline"),
            questdb=build.removeprefix("Build Information: "),
            postgres=relational[1],
            schema=tuple(applied),
            tables=self.tables,
            postgres_tables=relational[0],
            files=dict(sorted(self.files.items())),
            secrets=tuple(sorted(f"secrets/{path.name}" for path in folder.glob("*") if path.is_file())),
            remarks=tuple(dict.fromkeys(self.remarks)),
            home=home_id(self.settings.home),
            packed=self.packed,
        )


def archive_notes(folder: Path) -> list[Path]:
    """The raw archive's notes on what was loaded and what was refused: a copy has those of before its entries."""
    return [p for p in files_in(folder) if _kind(p, folder) not in (*_ORDER, "drafts") and not _is_lock(p)]


def archive_content(folder: Path) -> list[Path]:
    """The raw archive's entries and then payloads: in this order a copy may be made while sources go on.

    So it has no entry whose payload it lacks, and none that is older than the notes of before.
    """
    found = [path for path in files_in(folder) if _kind(path, folder) in _ORDER]
    return sorted(found, key=lambda path: _ORDER.index(_kind(path, folder)))


def _kind(path: Path, folder: Path) -> str:
    """The folder of its source that a file of the archive is in; empty where it is in none."""
    parts = path.relative_to(folder).parts
    return parts[1] if len(parts) > 2 else ""


def _is_lock(path: Path) -> bool:
    return path.suffix == ".lock" or path.name == "lock"
