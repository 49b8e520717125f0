"""The one link that the desk's file readers read through: to the legacy files, or to ours, as the phase says."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from b3_pipeline.errors import B3Error
from b3_pipeline.settings import Settings
from b3_pipeline.shadow.files import folder_of

NAME = "legacy-current"
#: The phases in which readers, by link and by route, get what this pipeline stores.
OURS = ("active", "frozen")


class LinkBlocked(B3Error):
    """What has the link's name is no link: somebody has put it there, and it stays."""


def target(settings: Settings, phase: str) -> Path | None:
    """The folder that readers are to see in a phase; None where there is no legacy folder to show.

    Raises SharedFolder when the legacy folder is not apart from ours.
    """
    if phase in OURS:
        return folder_of(settings)
    return settings.legacy_dir and settings.legacy_dir.expanduser().absolute()


def current(home: Path) -> Path | None:
    """Where the link leads now; None when there is none."""
    try:
        return (home / NAME).readlink()
    except OSError:
        return None


def follow(settings: Settings, phase: str) -> bool:
    """Makes the link lead where the phase says, at once and for every reader; True when it had to be moved.

    Raises LinkBlocked, OSError when it cannot be placed: then it is as it was.
    """
    wanted = target(settings, phase)
    link = settings.folder() / NAME
    if wanted is None or current(settings.home) == wanted:
        return False
    if link.exists() and not link.is_symlink():
        raise LinkBlocked(f"{link} is no link. Move it away: the cutover puts one there, for the desk's file readers.")
    draft = link.with_name(f".{NAME}.{secrets.token_hex(4)}")
    try:
        draft.symlink_to(wanted, target_is_directory=True)
        os.replace(draft, link)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    return True
