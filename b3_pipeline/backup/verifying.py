"""Verifying a backup: it is restored into servers of its own for a moment, and compared with its manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from b3_pipeline.backup import tidying
from b3_pipeline.backup.backups import QUESTDB, VERIFIED, Backup, alone, find, note_verified
from b3_pipeline.backup.packing import PACKED, PackDamaged, unpack
from b3_pipeline.backup.proving import (
    damaged,
    differences,
    fetch,
    load_parquet,
    load_postgres,
    relational_differences,
    unpack_snapshot,
)
from b3_pipeline.backup.throwaway import free_ports, postgres_in, questdb_in, scratch
from b3_pipeline.errors import B3Error, UsageError
from b3_pipeline.failpoints import reached
from b3_pipeline.home import require_disk
from b3_pipeline.identity import home_id
from b3_pipeline.places import Place, backups_of
from b3_pipeline.postgres.flags import user
from b3_pipeline.progress import SILENT, Report
from b3_pipeline.settings import Settings

STEPS = ("verify: files read", "verify: restored", "verify: noted")


@dataclass(frozen=True)
class Verdict:
    """What came of a trial: which forms were restored, and what was wrong, in sentences."""

    backup: Backup
    forms: tuple[str, ...]
    problems: tuple[str, ...]
    at: datetime

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(
    settings: Settings, backup_id: str, forms: Sequence[str] = ("snapshot", "parquet"), report: Report = SILENT
) -> Verdict:
    """Reads all files of a backup, unpacks it and restores it into throw-away servers only if each has its hash.

    Of `forms` those that the backup has. It counts as proven once all of them were tried in one trial; what was noted of
    an earlier one is taken away when this one goes wrong, and stands when this one tries fewer forms.
    Raises UsageError for an id that is none, or forms that are not there; BackupDamaged, BackupBusy, PlaceError.
    """
    where = backups_of(settings)
    with alone(settings):
        tidying.tidy(settings)
        require_disk(settings)
        backup = find(where, backup_id, home_id(settings.home))
        tried = tuple(form for form in backup.manifest.forms if form in forms)
        if not tried:
            raise UsageError(f"The backup {backup.id} has no snapshot: QuestDB was a server of one's own.")
        problems = damaged(where, backup, backup.manifest.files, report)
        reached(STEPS[0])
        if not problems:
            problems = _try(settings, where, backup, tried, report)
            reached(STEPS[1])
        verdict = Verdict(backup, tried, tuple(problems), settings.clock())
        if not verdict.ok:
            where.remove(f"{backup.id}/{VERIFIED}")
        elif backup.verified_at is None or tried == backup.manifest.forms:
            note_verified(where, backup, verdict.at, user(), tried)
        reached(STEPS[2])
    return verdict


def _try(settings: Settings, where: Place, backup: Backup, forms: Sequence[str], report: Report) -> list[str]:
    report("Unpacking folders.")
    problems = _of_folders(settings, where, backup)
    for form in forms:
        with scratch(settings) as folder:
            report(f"Restoring the {form} into a server of its own.")
            problems += [f"From the {form}: {p}" for p in _of_form(settings, where, backup, folder, form)]
    with scratch(settings) as folder:
        report("Restoring PostgreSQL's dump into a server of its own.")
        problems += _of_postgres(where, backup, folder)
    return problems


def _of_folders(settings: Settings, where: Place, backup: Backup) -> list[str]:
    """What is wrong with the packed folders of the home: each is unpacked as a restore would. QuestDB's is a form."""
    problems = list[str]()
    for name in (n for n in backup.manifest.files if n.endswith(PACKED) and n != QUESTDB):
        with scratch(settings) as folder:
            fetch(where, backup, name, folder / name)
            try:
                found, wanted = unpack(folder / name, folder / "unpacked"), backup.manifest.packed.get(name)
            except PackDamaged as error:
                problems.append(str(error))
                continue
        if wanted is None:
            problems.append(
                f"The manifest does not say what {name} holds: an older release made it. Make another backup."
            )
        elif found != wanted:
            problems.append(
                f"{name} has {found.files} files of {found.bytes} bytes; {wanted.files} of {wanted.bytes} were packed."
            )
    return problems


def _of_form(settings: Settings, where: Place, backup: Backup, folder: Path, form: str) -> list[str]:
    home = folder / "home"
    try:
        if form == "snapshot":
            unpack_snapshot(where, backup, folder, home)
        with questdb_in(home, free_ports()) as db:
            if form == "parquet":
                load_parquet(where, backup, db, settings)
            return differences(backup.manifest, db)
    except B3Error as error:
        return [str(error)]


def _of_postgres(where: Place, backup: Backup, folder: Path) -> list[str]:
    try:
        with postgres_in(folder / "home") as dsn:
            load_postgres(where, backup, dsn, folder)
            return relational_differences(backup.manifest, dsn)
    except B3Error as error:
        return [str(error)]
