"""The files of a shadow folder: where it may be, one writer at a time, put in place whole, moved aside when damaged."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from b3_pipeline.errors import B3Error, UsageError
from b3_pipeline.loading.payloads import HISTORY_FOLDER
from b3_pipeline.settings import Settings

_LOCK = ".lock"
_LOCK_TIMEOUT_S = 20
_DRAFT = re.compile(r"\..+\.draft-[0-9a-f]{8}")
#: Damaged files that are kept of one name: the newest ones.
_KEPT_ASIDE = 20


class SharedFolder(UsageError):
    """The shadow folder is the legacy folder, or one of them is inside the other."""


class ShadowBusy(B3Error):
    """Another process writes the shadow files, and does not end."""


def folder_of(settings: Settings) -> Path:
    """The shadow folder of a home. Raises SharedFolder when the legacy collectors' folder is not apart from it."""
    folder = settings.shadow_dir or settings.home / "shadow"
    require_apart(folder, settings.legacy_dir)
    return folder.expanduser().absolute()


def require_apart(folder: Path, legacy: Path | None) -> None:
    """Raises SharedFolder unless neither of the folders is the other, or inside it, links followed."""
    if legacy is None:
        return
    ours, theirs = folder.expanduser().resolve(), legacy.expanduser().resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise SharedFolder(
            f"B3_SHADOW_DIR ({ours}) and B3_LEGACY_DIR ({theirs}) must be apart: else what we write would come back as "
            "what the legacy collectors wrote. Give another folder in B3_SHADOW_DIR."
        )


class Folder:
    """A shadow folder, held by this process. `damaged` names what it has moved aside, as it is called now."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged: list[str] = []

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None when there is none. What is no plain file is none of ours and is moved aside."""
        path = self.path / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            self.set_aside(name)
        return path.read_bytes() if path.exists() else None

    def put(self, name: str, data: bytes) -> bool:
        """Puts a file in place, whole and safe; False when it has these bytes already.

        Raises OSError: then the file is as it was.
        """
        if self.read(name) == data:
            return False
        path = self.path / name
        draft = path.with_name(f".{path.name}.draft-{secrets.token_hex(4)}")
        try:
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return True

    def set_aside(self, name: str) -> None:
        """Moves what is not ours out of the way, to `*.damaged-<n>`. Of many the oldest go."""
        path = self.path / name
        earlier = _aside(path)
        place = path.with_name(f"{path.name}.damaged-{max(earlier, default=0) + 1}")
        path.rename(place)
        self.damaged.append(place.relative_to(self.path).as_posix())
        for number in sorted(earlier)[: -_KEPT_ASIDE + 1]:
            old = earlier[number]
            if old.is_symlink() or not old.is_dir():
                old.unlink(missing_ok=True)

    def clear(self) -> None:
        """Makes the folder of older captures, and takes away drafts that a killed process has left."""
        history = self.path / HISTORY_FOLDER
        if history.is_symlink() or (history.exists() and not history.is_dir()):
            self.set_aside(HISTORY_FOLDER)  # a link might lead into somebody else's folder
        history.mkdir(exist_ok=True)
        for draft in (*self.path.glob(".*.draft-*"), *history.glob(".*.draft-*")):
            if _DRAFT.fullmatch(draft.name):
                draft.unlink(missing_ok=True)


@contextmanager
def alone(path: Path) -> Iterator[Folder]:
    """The folder, made when there is none, for one writer at a time.

    Raises ShadowBusy when another one does not end, OSError when the folder cannot be made or written.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / _LOCK, timeout=_LOCK_TIMEOUT_S)
    try:
        lock.acquire()
    except Timeout:
        raise ShadowBusy(f"Another process has been writing to {path} for {_LOCK_TIMEOUT_S} s.") from None
    try:
        folder = Folder(path)
        folder.clear()
        yield folder
    finally:
        lock.release()


def _aside(path: Path) -> dict[int, Path]:
    """What was moved aside under a name, by number."""
    mark = re.compile(rf"{re.escape(path.name)}\.damaged-([0-9]+)")
    found = ((mark.fullmatch(other.name), other) for other in path.parent.iterdir())
    return {int(match[1]): other for match, other in found if match}
