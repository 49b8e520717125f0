"""What dead processes left of their backups: found and taken away by the next one, so that a crash costs nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from b3_pipeline.backup.backups import MANIFEST, BackupBusy, alone
from b3_pipeline.backup.throwaway import FOLDER, clear_scratch
from b3_pipeline.credentials import write_private
from b3_pipeline.places import Place, backups_of
from b3_pipeline.questdb.checkpoint import in_progress, release_left
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.services import running
from b3_pipeline.settings import Settings


def tidy(settings: Settings) -> list[str]:
    """Takes away what dead processes left, and says what it was: a checkpoint, half a backup, servers and folders.

    For whoever holds the lock of backups.
    """
    done = ["a checkpoint of QuestDB's"] if release_checkpoint(settings) else []
    clear_scratch(settings)
    unfinished = _noted(settings)
    if unfinished:
        where = backups_of(settings)
        for backup_id in unfinished:
            drop(where, backup_id)
        forget(settings, unfinished)
        done.append(f"half a backup ({', '.join(unfinished)})")
    return done


def release_checkpoint(settings: Settings) -> bool:
    """Releases a checkpoint that a dead process left in the running embedded QuestDB. A server's start ends any."""
    servers = running(settings)
    if servers is None or settings.questdb_url:
        return False
    with QuestDB(servers.questdb) as db:
        return release_left(db)


def checkpoint_left(settings: Settings) -> str:
    """What is to be said of a checkpoint of the running embedded QuestDB that no living backup holds; empty when none."""
    servers = running(settings)
    if servers is None or settings.questdb_url:
        return ""
    try:
        with alone(settings), QuestDB(servers.questdb) as db:
            return "QuestDB's checkpoint was not released" if in_progress(db) else ""
    except BackupBusy:
        return ""


def note(settings: Settings, backup_ids: Iterable[str]) -> None:
    """Notes backups that are no good until `forget`: the next process takes them away."""
    ids = sorted({*_noted(settings), *backup_ids})
    write_private(_file(settings), json.dumps(ids))


def forget(settings: Settings, backup_ids: Iterable[str]) -> None:
    """These are good, or gone."""
    ids = sorted({*_noted(settings)} - {*backup_ids})
    write_private(_file(settings), json.dumps(ids))


def drop(where: Place, backup_id: str) -> None:
    """Takes a backup away: its manifest first, so that half of it is none."""
    for name in sorted(where.names(backup_id), key=lambda name: not name.endswith(f"/{MANIFEST}")):
        where.remove(name)
    if "://" not in where.url:
        shutil.rmtree(Path(where.url) / backup_id, ignore_errors=True)  # folders, now empty


def _noted(settings: Settings) -> list[str]:
    with suppress(FileNotFoundError, ValueError):
        return [str(backup_id) for backup_id in json.loads(_file(settings).read_text("utf-8"))]
    return []


def _file(settings: Settings) -> Path:
    return settings.folder(FOLDER) / "unfinished.json"
