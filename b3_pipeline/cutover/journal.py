"""What a step or a rollback is at, in `cutover/<domain>.json` of the home: what a crash has left is finished by the next one."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from b3_pipeline import migration_log
from b3_pipeline.credentials import write_private
from b3_pipeline.errors import B3Error
from b3_pipeline.postgres.flags import MARKET

FOLDER = "cutover"


class CutoverBusy(B3Error):
    """Another process moves the phase just now."""


class JournalDamaged(B3Error):
    """What was under way cannot be read; nothing is guessed."""


@dataclass(frozen=True)
class Task:
    """What is under way: from a phase to another, begun at a moment (aware UTC), by whom and why.

    `notes` are what it has found and done so far; they go into the log of migrations at its end.
    """

    kind: Literal["advance", "rollback"]
    phase: str
    to: str
    began: str
    who: str
    why: str
    override: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def at(self) -> datetime:
        """When it began."""
        return datetime.fromisoformat(self.began)


@contextmanager
def alone(home: Path, domain: str) -> Iterator[Path]:
    """One process at a time moves a domain; gives the journal's file. Raises CutoverBusy."""
    folder = home / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"{domain}.lock", timeout=0):
            yield folder / f"{domain}.json"
    except Timeout:
        raise CutoverBusy("Another `b3 cutover` is at work. Wait until it has ended.") from None


def under_way(home: Path, domain: str) -> Task | None:
    """What was begun and has not ended. Raises JournalDamaged."""
    file = home / FOLDER / f"{domain}.json"
    try:
        return Task(**json.loads(file.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise JournalDamaged(
            f"{file} cannot be read ({error}). `b3 flags history` says which phase stands; delete the file, and run "
            "`b3 cutover rollback` or `b3 cutover advance` again."
        ) from None


def keep(file: Path, task: Task) -> Task:
    """Notes what is under way, safe on disk."""
    write_private(file, json.dumps(asdict(task), ensure_ascii=False, indent=1, default=str))
    return task


def noted(file: Path, task: Task, **notes: Any) -> Task:
    """The task with further notes, safe on disk."""
    return keep(file, replace(task, notes={**task.notes, **notes}))


def option(domain: str) -> str:
    """What a command needs to be of a domain, for the advice to people: nothing for the market data."""
    return "" if domain == MARKET else f" --domain {domain}"


def done(file: Path) -> None:
    """Notes that nothing is under way any more."""
    file.unlink(missing_ok=True)


def logged_once(home: Path, task: Task, step: migration_log.Step) -> Path:
    """Writes a task into the log of migrations, unless that was done before a crash; returns its file."""
    for known in migration_log.steps(home):
        if known.get("details", {}).get("task") == task.id:
            return home / migration_log.FOLDER / known["file"]
    return migration_log.write(home, step)
