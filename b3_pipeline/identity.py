"""Who a home is to the places that several homes may use: a random id, in no backup, so that a copy is another home."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path

from b3_pipeline.credentials import create_private

#: The file with the id, in the home.
FILE = "id"


def home_id(home: Path) -> str:
    """The id of a home; empty before it has one."""
    with suppress(FileNotFoundError):
        return (home / FILE).read_text("ascii").strip()
    return ""


def identified(home: Path) -> str:
    """As `home_id`, made when there is none; two processes that make it at the same moment get the same one."""
    if not home_id(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_private(home / FILE, f"{secrets.token_hex(4)}\n")
    return home_id(home)
