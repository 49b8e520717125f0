"""Files and folders that survive a power cut."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Makes a folder with its parents, safe on disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Waits until what was written to a file, or the names in a folder, are safe on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, content: bytes) -> None:
    """Writes a new file, safe on disk; its name is not."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_synced(path: Path, content: bytes, check: Callable[[], object] = lambda: None) -> None:
    """Puts a file in place whole, safe on disk, with the rights of the one before, or of its folder: others write on in it.

    A link stays one, to the new file. `check` is called right before, when all is written. Raises OSError, and what `check`
    raises: then the file is as it was.
    """
    path = path.resolve()
    like = (path if path.exists() else path.parent).stat()
    draft = path.with_name(f".{path.name}.draft-{secrets.token_hex(4)}")
    try:
        write_synced(draft, content)
        os.chmod(draft, like.st_mode & 0o666)
        with suppress(PermissionError):
            os.chown(draft, like.st_uid, like.st_gid)
        check()
        draft.replace(path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)
