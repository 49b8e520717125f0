"""What a backup is: a folder of a place, named by its id, complete once it has its manifest.

<id>/questdb.tar.zst     QuestDB's data folder as of a checkpoint; not of a server of one's own
<id>/parquet/…           every partition of every table, as exports are (warehouse/exports.py)
<id>/postgres.dump       pg_dump's custom form
<id>/archive.tar.zst …   folders of the home, and settings.toml without its secrets
<id>/manifest.json       what all of it holds; written last, never changed
<id>/verified.json       when it was last restored for a trial, and proven
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from filelock import FileLock, Timeout

from b3_pipeline.backup.packing import PACKED, Content
from b3_pipeline.errors import B3Error, UsageError
from b3_pipeline.identity import home_id
from b3_pipeline.places import Place, backups_of, place
from b3_pipeline.settings import Settings

MANIFEST, VERIFIED = "manifest.json", "verified.json"
QUESTDB, PARQUET, POSTGRES, SETTINGS = "questdb.tar.zst", "parquet", "postgres.dump", "settings.toml"
#: The file of a home that has its id.
#: Folders of the home that a backup has, by the name of the part. The others are made anew, or hold secrets.
FOLDERS = ("archive", "quarantine", "reports", "repaired", "migrations")
#: What can be restored by itself, in the order in which it is.
PARTS = ("settings", *FOLDERS, "postgres", "questdb")


class BackupBusy(B3Error):
    """Another process makes, verifies or restores a backup of this home."""


class BackupDamaged(B3Error):
    """A backup is not what was written, and is not used."""


@dataclass(frozen=True)
class TableState:
    """A table in a backup: its rows, and by partition its rows and their checksum."""

    rows: int
    checksum: str
    partitions: Mapping[str, tuple[int, str]]

    @classmethod
    def of(cls, partitions: Mapping[str, tuple[int, str]]) -> TableState:
        """Of what the partitions hold; the table's checksum is made of theirs."""
        lines = "".join(f"{name} {rows} {checksum}\n" for name, (rows, checksum) in sorted(partitions.items()))
        rows = sum(rows for rows, _checksum in partitions.values())
        return cls(rows, hashlib.sha256(lines.encode()).hexdigest(), dict(partitions))


@dataclass(frozen=True)
class Stored:
    """A file of a backup."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a backup holds. `at` is aware UTC; `secrets` are the files that it does not have and a restored home needs.

    `home` is the id of the home that it is of, `packed` what each packed folder holds.
    """

    id: str
    at: datetime
    who: str
    release: str
    questdb: str
    postgres: str
    schema: tuple[Mapping[str, Any], ...]
    tables: Mapping[str, TableState]
    postgres_tables: Mapping[str, int]
    files: Mapping[str, Stored]
    secrets: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    home: str = ""
    packed: Mapping[str, Content] = field(default_factory=dict)

    @property
    def forms(self) -> tuple[str, ...]:
        """In which forms QuestDB's tables are there."""
        return ("snapshot", "parquet") if QUESTDB in self.files else ("parquet",)

    @property
    def parts(self) -> tuple[str, ...]:
        """What it can restore, of PARTS."""
        return tuple(part for part in PARTS if part == "questdb" or file_of(part) in self.files)

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables.values())

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())

    def data(self) -> bytes:
        """As it is kept: JSON with the SHA-256 of its own content."""
        document = asdict(self) | {"at": self.at.isoformat()}
        return _rendered({"sha256": _digest(document), **document})

    @classmethod
    def of_data(cls, data: bytes) -> Manifest:
        """Raises BackupDamaged when these are not the bytes that were written."""
        try:
            document = json.loads(data)
            sha256 = document.pop("sha256")
            if sha256 != _digest(document) or data != _rendered({"sha256": sha256, **document}):
                raise ValueError("it does not have the SHA-256 that it names")
            return cls(**{**document, **_typed(document)})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BackupDamaged(f"The manifest of a backup is damaged: {error}.") from None


def _typed(document: Mapping[str, Any]) -> dict[str, Any]:
    tables = {
        name: TableState(
            t["rows"], t["checksum"], {p: (rows, checksum) for p, (rows, checksum) in t["partitions"].items()}
        )
        for name, t in document["tables"].items()
    }
    return {
        "at": datetime.fromisoformat(document["at"]),
        "tables": tables,
        "files": {name: Stored(**file) for name, file in document["files"].items()},
        "packed": {name: Content(**content) for name, content in document.get("packed", {}).items()},
        **{name: tuple(document[name]) for name in ("schema", "secrets", "remarks")},
    }


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()


def _rendered(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, ensure_ascii=False, indent=1, default=str) + "\n").encode()


@dataclass(frozen=True)
class Backup:
    """A complete backup of a place.

    `verified_at` (aware UTC) is of its last trial from all of its forms; None: never, or it went wrong.
    """

    manifest: Manifest
    sha256: str = field(repr=False)
    verified_at: datetime | None = None

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def at(self) -> datetime:
        return self.manifest.at


def file_of(part: str) -> str:
    """The file of a part."""
    return {"settings": SETTINGS, "postgres": POSTGRES, "questdb": QUESTDB}.get(part, f"{part}{PACKED}")


def parquet_of(where: Place, backup_id: str) -> Place:
    """Where a backup has its tables as Parquet."""
    return place(f"{where.url}/{backup_id}/{PARQUET}")


def backups(where: Place) -> tuple[list[Backup], list[str]]:
    """The backups of a place, oldest first, and the ids of those whose manifest is damaged. Raises PlaceError, OSError."""
    found, broken = list[Backup](), list[str]()
    for name in where.names():
        if name.count("/") == 1 and name.endswith(f"/{MANIFEST}"):
            backup_id = name.partition("/")[0]
            try:
                found.append(_read(where, backup_id))
            except (BackupDamaged, FileNotFoundError):
                broken.append(backup_id)
    return sorted(found, key=lambda backup: (backup.at, backup.id)), broken


def own(there: Iterable[Backup], home: str) -> list[Backup]:
    """Those backups that are of a home. One whose manifest names no home is nobody's."""
    return [backup for backup in there if home and backup.manifest.home == home]


def find(where: Place, backup_id: str, home: str) -> Backup:
    """A backup by its id, of whatever home; `latest` is the newest one of this home.

    Raises UsageError when there is none, BackupDamaged.
    """
    if backup_id == "latest":
        there = own(backups(where)[0], home)
        if not there:
            raise UsageError(
                f"There is no backup of this home in {where}: `b3 backup create` makes one. Name one of another home, or of "
                "the one that this takes the place of, by its id: `b3 backup list` shows them."
            )
        return there[-1]
    if "/" in backup_id or backup_id.startswith("."):
        raise UsageError(f"{backup_id!r} is no id of a backup: `b3 backup list` shows them.")
    try:
        return _read(where, backup_id)
    except FileNotFoundError:
        raise UsageError(f"There is no backup {backup_id} in {where}: `b3 backup list` shows what there is.") from None


def newest_verified(where: Place, home: str | None = None) -> Backup | None:
    """The newest backup of a home (None: of any) that was proven from all of its forms; None when there is none."""
    there = backups(where)[0]
    proven = [b for b in (there if home is None else own(there, home)) if b.verified_at is not None]
    return proven[-1] if proven else None


def standing(settings: Settings) -> dict[str, Any] | None:
    """The newest backup of a home, its age in seconds, when it was proven; None when there is none, or nobody can say."""
    try:
        there = own(backups(backups_of(settings))[0], home_id(settings.home))
    except (B3Error, OSError):
        return None
    if not there:
        return None
    newest = there[-1]
    age_s = round((settings.clock() - newest.at).total_seconds(), 1)
    return {"name": newest.id, "at": newest.at, "age_s": age_s, "verified_at": newest.verified_at}


def note_verified(where: Place, backup: Backup, at: datetime, who: str, forms: tuple[str, ...]) -> None:
    """Keeps beside a backup's manifest that it was proven from some forms; `at` is aware UTC."""
    document = {"at": at.isoformat(), "who": who, "forms": forms, "manifest": backup.sha256}
    where.write(f"{backup.id}/{VERIFIED}", (json.dumps(document, indent=1) + "\n").encode())


def _read(where: Place, backup_id: str) -> Backup:
    data = where.read(f"{backup_id}/{MANIFEST}")
    manifest, sha256 = Manifest.of_data(data), hashlib.sha256(data).hexdigest()
    if manifest.id != backup_id:
        raise BackupDamaged(f"The manifest in {backup_id} is of another backup, {manifest.id}.")
    return Backup(manifest, sha256, _verified_at(where, manifest, sha256))


def _verified_at(where: Place, manifest: Manifest, sha256: str) -> datetime | None:
    """When this very backup was proven; a note that is damaged, of another manifest or of fewer forms, is none."""
    try:
        note = json.loads(where.read(f"{manifest.id}/{VERIFIED}"))
        proven = note["manifest"] == sha256 and {*manifest.forms} <= {*note["forms"]}
        return datetime.fromisoformat(note["at"]) if proven else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """One process at a time makes, verifies or restores backups of a home. Raises BackupBusy."""
    lock = FileLock(settings.folder("locks") / "backup.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BackupBusy(
            "Another process makes, verifies or restores a backup of this home. Try again later."
        ) from None
    try:
        yield
    finally:
        lock.release()
