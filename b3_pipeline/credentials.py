"""Passwords of our own servers: made on first use, kept under `B3_HOME/secrets`, readable by nobody else."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from b3_pipeline.errors import B3Error


class UnsafeSecret(B3Error):
    """A secret that others can read is no secret; it is not used."""


def password(folder: Path, name: str) -> str:
    """The password kept in `folder/name` (43 characters of A–Z a–z 0–9 - _); made when there is none yet.

    Two processes that make it at the same moment get the same one. Raises UnsafeSecret when the folder or the file
    is open to others.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / name
    if not file.exists():
        create_private(file, secrets.token_urlsafe(32))
    if problems := unsafe(folder, file):
        raise UnsafeSecret(problems[0])
    return file.read_text("ascii").strip()


def unsafe(*paths: Path) -> list[str]:
    """A sentence for each of the paths that others than its owner may read or change."""
    return [
        f"{path} is open to other users (mode {stat.S_IMODE(path.stat().st_mode):04o}). Close it with "
        f"`chmod go-rwx {path}`; if others had access to this machine, delete the file and start again for a new password."
        for path in paths
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    ]


def write_private(file: Path, text: str) -> None:
    """Puts a file in place whole, with mode 0600 from its first moment."""
    draft = _draft(file, text)
    draft.replace(file)


def create_private(file: Path, text: str) -> None:
    """Like `write_private`, but a file that is there by now stays."""
    draft = _draft(file, text)
    try:
        os.link(draft, file)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _draft(file: Path, text: str) -> Path:
    draft = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    return draft
