"""Restoring a backup into the home: part by part, each put in place whole, and proven at the end.

What is under way is in the journal: after a crash the same command goes on there, and no server of the home starts until
it has ended. With --force it begins anew. What was in the home is never deleted: it is moved to
`B3_HOME/replaced/<time>/`.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from b3_pipeline import processes
from b3_pipeline.backup.backups import SETTINGS, Backup, BackupDamaged, alone, file_of, find
from b3_pipeline.backup.dumping import counts
from b3_pipeline.backup.journal import FOLDER, Journal, journal_file
from b3_pipeline.backup.packing import unpack
from b3_pipeline.backup.proving import (
    damaged,
    differences,
    fetch,
    files_of,
    load_parquet,
    load_postgres,
    relational_differences,
    unpack_snapshot,
)
from b3_pipeline.backup.throwaway import clear_scratch, postgres_in, questdb_in
from b3_pipeline.credentials import write_private
from b3_pipeline.errors import B3Error, UsageError
from b3_pipeline.failpoints import reached
from b3_pipeline.home import hold, require_disk
from b3_pipeline.identity import home_id
from b3_pipeline.lowdb.fence import note_of
from b3_pipeline.migration_log import FOLDER as LOGS
from b3_pipeline.migration_log import Step, write
from b3_pipeline.places import Place, backups_of
from b3_pipeline.postgres.dsn import checked
from b3_pipeline.progress import SILENT, Report
from b3_pipeline.questdb.client import Address, QuestDB, named
from b3_pipeline.settings import Settings

#: The steps of a restore at which a test ends the process.
STEPS = (
    "restore: begun",
    "restore: a part unpacked",
    "restore: a part set aside",
    "restore: a part in place",
    "restore: PostgreSQL loaded",
    "restore: QuestDB loaded",
    "restore: QuestDB compared",
    "restore: logged",
)
REPLACED = "replaced"


class RestoreRefused(B3Error):
    """A restore would take the place of what is there."""


class RestoreFailed(B3Error):
    """What was restored is not what the backup holds."""


@dataclass(frozen=True)
class Restored:
    """What was restored, and where what it took the place of lies now; the log of it."""

    backup: Backup
    form: str
    parts: tuple[str, ...]
    aside: Path | None
    log: Path


def restore(
    settings: Settings,
    backup_id: str,
    form: str | None = None,
    parts: Sequence[str] = (),
    *,
    force: bool = False,
    report: Report = SILENT,
) -> Restored:
    """Restores parts of a backup (none named: all that it has), QuestDB's tables from a form (default: the snapshot).

    Nothing is touched before the files that are needed were read and have their hashes. Raises HomeBusy while `b3 up` or
    another command runs servers here, RestoreRefused where something is there and `force` is not given, BackupDamaged,
    RestoreFailed when what came of it differs from the backup, DiskFull, PlaceError.
    """
    where = backups_of(settings)
    with hold(settings, shared=False), alone(settings):
        require_disk(settings)
        processes.end_leftovers(settings.home)
        clear_scratch(settings)
        backup = find(where, backup_id, home_id(settings.home))
        work = _Restoring(settings, where, backup, report, _journal(settings, backup, form, parts, force=force))
        return work.run()


def _journal(settings: Settings, backup: Backup, form: str | None, parts: Sequence[str], *, force: bool) -> Journal:
    """What is to be done: what an interrupted restore of the same had left, or a new one. Raises UsageError."""
    manifest, own = backup.manifest, settings.questdb_url is not None
    wanted = form or ("parquet" if own else manifest.forms[0])
    if wanted not in manifest.forms:
        raise UsageError(f"The backup {backup.id} has QuestDB's tables in the form {', '.join(manifest.forms)} only.")
    if own and wanted == "snapshot":
        raise UsageError("QuestDB is a server of one's own here (B3_QUESTDB_URL): --form parquet restores its tables.")
    chosen = tuple(part for part in manifest.parts if not parts or part in parts)
    if missing := sorted({*parts} - {*chosen}):
        raise UsageError(f"The backup {backup.id} has no {', '.join(missing)}; it has {', '.join(manifest.parts)}.")
    before = Journal.read(settings.home)
    same = before is not None and (before.backup, before.form, before.parts) == (backup.id, wanted, chosen)
    if before is not None and not force:
        if same:
            return before
        raise RestoreRefused(
            f"A restore of {before.backup} ({before.form}: {', '.join(before.parts)}) was interrupted. Run it again: it "
            "goes on where it stopped. With --force this one takes its place, and moves aside what that one left."
        )
    return Journal(backup.id, wanted, chosen, force, f"{settings.clock():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")


@dataclass
class _Restoring:
    """One restore while it goes on."""

    settings: Settings
    where: Place
    backup: Backup
    report: Report
    journal: Journal

    def __post_init__(self) -> None:
        self.began, self.at = time.monotonic(), self.settings.clock()
        self.drafts = self.settings.folder(FOLDER)
        self.aside = self.settings.home / REPLACED / self.journal.at

    def run(self) -> Restored:
        self._require_sound()
        self._require_free()
        self._warn()
        self._note()
        reached(STEPS[0])
        for part in self.journal.parts:
            if part == "questdb":
                self._questdb()
            elif part == "postgres":
                self._postgres()
            else:
                self._place(part)
                self._note(part, "done")
        log = self._logged()
        reached(STEPS[7])
        shutil.rmtree(self.drafts)
        aside = self.aside if self.aside.exists() else None
        return Restored(self.backup, self.journal.form, self.journal.parts, aside, log)

    # What must be so before anything is touched

    def _require_sound(self) -> None:
        manifest, parts = self.backup.manifest, self.journal.parts
        names = [file_of(part) for part in parts if part != "questdb"]
        names += files_of(manifest, self.journal.form) if "questdb" in parts else []
        if problems := damaged(self.where, self.backup, names, self.report):
            raise BackupDamaged(
                f"The backup {self.backup.id} is damaged, and nothing was restored: {' '.join(problems[:10])} "
                "`b3 backup list` shows others."
            )

    def _require_free(self) -> None:
        untouched = [part for part in self.journal.parts if part not in self.journal.state]
        for part in untouched:
            self._require_empty_server(part)
        there = [part for part in untouched if self._own(part) is None and self._present(part)]
        if there and not self.journal.force:
            raise RestoreRefused(
                f"This home has its own {', '.join(there)}, and nothing was restored. With --force it is moved to "
                f"{self.settings.home / REPLACED}, and --what restores less; or set B3_HOME to an empty folder."
            )

    def _require_empty_server(self, part: str) -> None:
        """A server of one's own is filled when it is empty; what it has is nobody's but its owner's to take away."""
        own = self._own(part)
        if isinstance(own, Address):
            with QuestDB(own) as db:
                there = {name for (name,) in db.query("select table_name from tables()")}
                full = [n for n in self.backup.manifest.tables if n in there and _has_rows(db, n)]
        else:
            full = list(counts(own)) if own else []
        if full:
            raise RestoreRefused(
                f"The server of one's own for {part} has {', '.join(full[:5])} already, and nothing was restored: rename "
                "or drop them yourself, or name an empty database."
            )

    def _own(self, part: str) -> Address | str | None:
        """A server of one's own that a part goes to."""
        if part == "questdb" and self.settings.questdb_url:
            return Address.from_url(self.settings.questdb_url.get_secret_value())
        if part == "postgres" and self.settings.postgres_dsn:
            return checked(self.settings.postgres_dsn.get_secret_value())
        return None

    def _present(self, part: str) -> bool:
        home = self.settings.home
        if part == "settings":
            return (home / SETTINGS).exists()
        folder = {"questdb": home / "questdb" / "db", "postgres": home / "postgres" / "data"}.get(part, home / part)
        return folder.is_dir() and any(folder.iterdir())

    def _warn(self) -> None:
        if missing := [name for name in self.backup.manifest.secrets if not (self.settings.home / name).exists()]:
            self.report(
                f"No backup has secrets. The home that this one is of had {', '.join(missing)}: put secrets/token_key and "
                "secrets/api_key back from where you keep them; passwords of the servers are made anew."
            )

    # Part by part

    def _questdb(self) -> None:
        if self._own("questdb") is None:
            self._place("questdb")
        if self.journal.state.get("questdb") == "done":
            return
        with self._opened_questdb() as db:
            if self.journal.form == "parquet":
                load_parquet(self.where, self.backup, db, self.settings, self.report)
            reached(STEPS[5])
            self.report("Comparing QuestDB's tables with the backup.")
            self._require_none(differences(self.backup.manifest, db))
        reached(STEPS[6])
        self._note("questdb", "done")

    def _postgres(self) -> None:
        if self._own("postgres") is None:
            self._place("postgres")
        if self.journal.state.get("postgres") == "done":
            return
        self.report("Restoring PostgreSQL.")
        with self._opened_postgres() as dsn:
            load_postgres(self.where, self.backup, dsn, self.drafts / "files")
            reached(STEPS[4])
            self._require_none(relational_differences(self.backup.manifest, dsn))
        note_of(self.settings.home).unlink(missing_ok=True)  # of a phase that may be newer than the restored one
        self._note("postgres", "done")

    def _require_none(self, problems: Sequence[str]) -> None:
        if problems:
            raise RestoreFailed(
                f"What was restored is not what the backup holds: {' '.join(problems[:10])} With --force it begins anew, "
                "and moves aside what is here; a server of one's own is yours to empty first."
            )

    def _place(self, part: str) -> None:
        """Puts a part where it belongs, whole; what is there is moved aside. Again, it goes on where it stopped."""
        draft, target = self.drafts / "parts" / part, self._target(part)
        if part not in self.journal.state:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(mode=0o700, parents=True)
            self._unpack(part, draft)
            self._note(part, "unpacked")
            reached(STEPS[1])
        if self.journal.state[part] == "unpacked":
            made = draft / target.name
            if made.exists():  # else it is in place, and we died before we could say so
                self._set_aside(target)
                reached(STEPS[2])
                made.rename(target)
            reached(STEPS[3])
            self._note(part, "placed")

    def _target(self, part: str) -> Path:
        return self.settings.home / (SETTINGS if part == "settings" else part)

    def _unpack(self, part: str, draft: Path) -> None:
        """The part as it is to be, in a folder: a file or folder of its name."""
        if part == "settings":
            fetch(self.where, self.backup, SETTINGS, draft / SETTINGS)
        elif part == "questdb" and self.journal.form == "snapshot":
            unpack_snapshot(self.where, self.backup, self.drafts / "files", draft, self.report)
        elif part in ("questdb", "postgres"):  # a server fills it
            (draft / part).mkdir(mode=0o700)
        else:
            packed = self.drafts / "files" / file_of(part)
            fetch(self.where, self.backup, file_of(part), packed)
            unpack(packed, draft)
            (draft / part).mkdir(exist_ok=True)
            packed.unlink()

    def _set_aside(self, target: Path) -> None:
        if target.exists():
            self.aside.mkdir(mode=0o700, parents=True, exist_ok=True)
            target.rename(self.aside / target.name)

    @contextmanager
    def _opened_questdb(self) -> Iterator[QuestDB]:
        own = self._own("questdb")
        if isinstance(own, Address):
            self._note("questdb", "placed")  # from now on rows that are there may be ours
            with QuestDB(own) as db:
                yield db
        else:
            settings = self.settings
            with questdb_in(settings.home, settings.ports, settings.questdb_memory, self.report) as db:
                yield db

    @contextmanager
    def _opened_postgres(self) -> Iterator[str]:
        own = self._own("postgres")
        if isinstance(own, str):
            self._note("postgres", "placed")
            yield own
        else:
            with postgres_in(self.settings.home, self.report) as dsn:
                yield dsn

    # What is kept of it

    def _logged(self) -> Path:
        """The log of this restore, written once."""
        if "log" not in self.journal.state:
            self._note("log", self._log().name)
        return self.settings.home / LOGS / self.journal.state["log"]

    def _log(self) -> Path:
        manifest, parts = self.backup.manifest, self.journal.parts
        tables = manifest.tables if "questdb" in parts else {}
        aside = f"What was here lies in {self.aside}: stop all, and move it back." if self.aside.exists() else ""
        step = Step(
            kind="restore",
            title=f"Restored {', '.join(parts)} from the backup {self.backup.id}",
            at=self.at,
            outcome="done",
            seconds=time.monotonic() - self.began,
            way_back=aside or "Nothing was here before: delete what was restored.",
            counts={name: state.rows for name, state in tables.items()},
            checksums={name: state.checksum for name, state in tables.items()},
            files=[file_of(part) for part in parts if file_of(part) in manifest.files],
            details={"manifest": self.backup.sha256, "form": self.journal.form, "of": manifest.at.isoformat()},
        )
        return write(self.settings.home, step)

    def _note(self, part: str | None = None, state: str = "") -> None:
        if part is not None:
            self.journal.state[part] = state
        write_private(journal_file(self.settings.home), json.dumps(asdict(self.journal), indent=1))


def _has_rows(db: QuestDB, table: str) -> bool:
    return bool(db.scalar(named("select count() from {t}", t=table)))
