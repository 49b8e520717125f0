"""What the collector knows of a source, in `archive/<source>/state.json`: for itself after a start, and for who watches it."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

FILE = "state.json"
_MOMENTS = ("attempt", "success", "changed", "failing_since")


@dataclass(frozen=True)
class State:
    """Moments are aware UTC by the settings' clock. `success`: it answered as it should; `changed`: with something new.

    `failures` are those in a row, since `failing_since`; `problem` is the last one's, in words for people, without
    secrets. `refused` counts all answers that were refused. The validators are the newest payload's.
    """

    attempt: datetime | None = None
    success: datetime | None = None
    changed: datetime | None = None
    failing_since: datetime | None = None
    failures: int = 0
    problem: str | None = None
    refused: int = 0
    etag: str | None = None
    last_modified: str | None = None

    @classmethod
    def read(cls, folder: Path) -> State:
        """What is known in a source's folder of the archive; nothing where there is no file, or a damaged one."""
        try:
            given = json.loads((folder / FILE).read_bytes())
            moments = {n: datetime.fromisoformat(given[n]) if given[n] else None for n in _MOMENTS}
            return cls(**{**{f.name: given[f.name] for f in fields(cls)}, **moments})
        except (OSError, ValueError, TypeError, KeyError):
            return cls()

    def write(self, folder: Path) -> None:
        """Puts the file in place whole. It can be lost without harm: nobody waits for the disk, a full one is no error."""
        given: dict[str, Any] = asdict(self)
        given |= {name: given[name].isoformat() if given[name] else None for name in _MOMENTS}
        draft = folder / f".{FILE}.{os.getpid()}"
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(given, ensure_ascii=False, indent=1) + "\n", "utf-8")
            draft.replace(folder / FILE)

    def answered(self, at: datetime) -> State:
        """The source answered, with nothing new."""
        return replace(self, attempt=at, success=at, failing_since=None, failures=0, problem=None)

    def not_yet(self, at: datetime) -> State:
        """The source answered that it has none yet."""
        return replace(self, attempt=at, failing_since=None, failures=0, problem=None)

    def brought(self, at: datetime, etag: str | None = None, last_modified: str | None = None) -> State:
        """The source gave something new."""
        return replace(self.answered(at), changed=at, etag=etag, last_modified=last_modified)

    def failed(self, at: datetime, problem: str, *, refused: bool = False) -> State:
        """It gave no answer, or one that was refused."""
        return replace(
            self,
            attempt=at,
            failing_since=self.failing_since or at,
            failures=self.failures + 1,
            problem=problem,
            refused=self.refused + refused,
        )
