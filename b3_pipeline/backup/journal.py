"""The journal of a restore: how far it is. While there is one the home is half restored, and nothing may start in it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from b3_pipeline.errors import B3Error

FOLDER = "restoring"


class HalfRestored(B3Error):
    """A restore has not ended: databases, cursors and archive are of different moments."""


@dataclass
class Journal:
    """How far a restore is: of each part, whether it is unpacked, placed or done."""

    backup: str
    form: str
    parts: tuple[str, ...]
    force: bool
    at: str
    state: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, home: Path) -> Journal | None:
        """That of a home; None when there is none, or it cannot be read."""
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            given = json.loads(journal_file(home).read_text("utf-8"))
            return cls(**{**given, "parts": tuple(given["parts"])})
        return None


def journal_file(home: Path) -> Path:
    """Where the journal of a home's restore lies."""
    return home / FOLDER / "journal.json"


def require_restored(home: Path) -> None:
    """Raises HalfRestored while a restore of a home goes on, or was interrupted.

    What started in between would move cursors on past entries that are not in the tables once the restore has ended.
    """
    if not journal_file(home).exists():
        return
    journal = Journal.read(home)
    backup, form = (journal.backup, f" --form {journal.form}") if journal else ("ID", " --force")
    what = f" --what {','.join(journal.parts)}" if journal else ""
    raise HalfRestored(
        f"This home is half restored, and no server starts in it: run `b3 backup restore {backup}{form}{what}` again. It "
        "goes on where it stopped; with --force it begins anew, and moves aside what is here."
    )
