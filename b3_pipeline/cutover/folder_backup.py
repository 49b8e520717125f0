"""A backup of a legacy folder (or LowDB's), before anything is written into it: one tar in the place of backups, with its SHA-256."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from b3_pipeline.loading.payloads import HISTORY_FOLDER
from b3_pipeline.parsing.kinds import LEGACY_KINDS
from b3_pipeline.places import Place, PlaceError

FOLDER = "legacy"


class Stamp(NamedTuple):
    """What tells that a file is another one than before: when it was changed (ns), its size, and which one it is."""

    modified_ns: int
    size: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """A file's as it is now; None when there is none."""
        try:
            seen = path.stat()
        except FileNotFoundError:
            return None
        return cls(seen.st_mtime_ns, seen.st_size, seen.st_ino)


@dataclass(frozen=True)
class Saved:
    """A backup of the folder: its name in the place, its SHA-256, how many files it has."""

    name: str
    sha256: str
    files: int


def legacy_files(folder: Path) -> list[Path]:
    """The legacy collectors' files in a folder: those that this pipeline reads, and would write in a rollback."""
    paths = [folder / kind.file for kind in LEGACY_KINDS]
    past = [folder.glob(f"{HISTORY_FOLDER}/{kind.history}") for kind in LEGACY_KINDS if kind.history]
    return [path for path in (*paths, *(p for some in past for p in sorted(some))) if path.is_file()]


def stamps(folder: Path) -> dict[str, Stamp]:
    """The stamps of the legacy files of a folder, by name there."""
    found = ((path.relative_to(folder).as_posix(), Stamp.of(path)) for path in legacy_files(folder))
    return {name: stamp for name, stamp in found if stamp is not None}


def save(folder: Path, files: Sequence[Path], place: Place, at: datetime, spool: Path) -> Saved:
    """Saves files of a folder and proves that the backup has them; the same files at the same moment are one backup.

    Raises PlaceError, OSError: then there is none.
    """
    with tempfile.TemporaryDirectory(dir=spool) as draft:
        packed = Path(draft) / "legacy.tar.gz"
        _pack(folder, files, packed)
        sha256 = _sha256(packed)
        name = f"{FOLDER}/{at:%Y%m%d-%H%M%S}-{sha256[:12]}.tar.gz"
        place.put(packed, name)
    if place.sha256(name) != sha256:
        raise PlaceError(f"{name} in {place.url} is not what was written there.")
    return Saved(name, sha256, len(files))


def _pack(folder: Path, files: Sequence[Path], packed: Path) -> None:
    """The same files give the same bytes: nothing in it is of the moment of packing."""
    with (
        packed.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in files:
            data, seen = path.read_bytes(), path.stat()
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size, member.mtime, member.mode = len(data), int(seen.st_mtime), seen.st_mode & 0o777
            tar.addfile(member, io.BytesIO(data))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
