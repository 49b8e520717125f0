"""Where Unix sockets of a home lie: in folders that only their server's user can enter, on paths that fit a socket."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from b3_pipeline.errors import B3Error
from b3_pipeline.processes import User

LONGEST_SOCKET_PATH = 103  # bytes: 107 on Linux, 103 on macOS


class SocketRefused(B3Error):
    """A socket cannot lie where it should."""


def socket_folder(home: Path, name: str, socket: str) -> Path:
    """The folder of a server's socket: in the home, or a short one of ours where that path would be too long.

    Raises SocketRefused when both are.
    """
    folder = home / "run" / name
    if len(os.fsencode(folder / socket)) <= LONGEST_SOCKET_PATH:
        return folder
    short = Path(tempfile.gettempdir()) / f"b3-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}-{name}"
    if len(os.fsencode(short / socket)) > LONGEST_SOCKET_PATH:
        raise SocketRefused(f"{short} is too long for a Unix socket: set TMPDIR or B3_HOME to a shorter path.")
    return short


def private_folder(folder: Path, user: User | None = None) -> None:
    """Makes a folder that only that user (None: ours) can enter. Raises SocketRefused when another user's is there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found, uid, gid = folder.lstat(), *((user.uid, user.gid) if user else (os.geteuid(), -1))
    if found.st_uid not in (os.geteuid(), uid) or not stat.S_ISDIR(found.st_mode):
        raise SocketRefused(f"{folder} belongs to somebody else: remove it, or set B3_HOME to another folder.")
    os.chown(folder, uid, gid)
    folder.chmod(0o700)
