"""What a step of the ideas does around its phase, and the way back: one store is made what the other is while no write goes on.

Forward the LowDB files go into the tables, back the tables into the files. Writes wait for it behind the fence (a second,
then they are told to come again); readers are answered all the time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from b3_pipeline.cutover import folder_backup, journal, phases
from b3_pipeline.cutover.evidence import Desk
from b3_pipeline.cutover.journal import Task
from b3_pipeline.cutover.replaying import Part
from b3_pipeline.failpoints import reached
from b3_pipeline.home import require_disk
from b3_pipeline.lowdb import levelling
from b3_pipeline.lowdb.fence import Fence
from b3_pipeline.lowdb.files import Files
from b3_pipeline.lowdb.levelling import Content, NotLevel, paths_of
from b3_pipeline.lowdb.model import COLLECTIONS, FILE_NAMES
from b3_pipeline.lowdb.schema import ideas as connected
from b3_pipeline.places import backups_of

#: Where a test ends the process, in the order in which they are reached: before the phase is set, and after.
BEFORE = ("advance: ideas levelled", "advance: writes stopped", "advance: ideas level")
AFTER = ("advance: note left",)
BACK = (
    "rollback: noted",
    "rollback: folder saved",
    *(f"rollback: {name} written" for name in FILE_NAMES),
    "rollback: parity proven",
    "rollback: phase set",
    "rollback: logged",
)
#: What cannot go back into a file, and stays in PostgreSQL, for people.
BEYOND: Mapping[str, str] = {
    "ideas.json": "the history of the ideas, who changed what and when",
    "db.json": "nothing",
}
#: Where the files are once the phase is frozen, in their folder.
SET_ASIDE = "set-aside"
_INTO_TABLES = (phases.SHADOW, phases.ACTIVE)
_EVER = datetime.min.replace(tzinfo=UTC)


@contextmanager
def moving(desk: Desk, task: Task) -> Iterator[Mapping[str, Any]]:
    """For as long as the phase is set: no write goes on, and both stores say the same. Gives what the log is to have.

    Raises UsageError, WritesGoOn, StoreAway, IdeasError, TooLarge, FileUnreadable, NotLevel, OSError: then the phase is as
    it was.
    """
    folder = levelling.folder_of(desk.settings)
    desk.tell("Levelling the tables with the files")
    if task.to == phases.SHADOW:  # most of it while everybody writes; from then on the tables get each write
        _level(desk, folder, task)
    reached("advance: ideas levelled")
    with _stopped(desk, task), Files(folder, desk.settings.clock).held():
        reached("advance: writes stopped")
        notes: Mapping[str, Any] = {}
        if task.to in _INTO_TABLES:
            contents = _level(desk, folder, task)
            found = levelling.parities(desk.dsn, levelling.records_of(contents))
            notes = {"files": _unchanged(folder, contents), "parity": levelling.require_level(found)}
            reached("advance: ideas level")
        yield notes


def follow(desk: Desk, task: Task) -> None:
    """Once the phase has moved: every process of the home is told; in frozen nobody finds the files in their place."""
    _tell(desk)
    reached("advance: note left")
    if task.to == phases.FROZEN:
        _set_aside(levelling.folder_of(desk.settings), task)


def _level(desk: Desk, folder: Path, task: Task) -> dict[str, Content]:
    """Makes the tables what the files say; returns what that is."""
    levelling.checksums(folder)  # a file that is gone is no empty one
    contents = levelling.read(paths_of(folder), levelling.MOVED_BYTES)
    levelling.into_tables(desk.dsn, contents, task.who)
    return contents


def _unchanged(folder: Path, contents: Mapping[str, Content]) -> dict[str, str]:
    """The SHA-256 of the files as they were read. Raises NotLevel when they are others by now: not all asks for our lock."""
    now = levelling.checksums(folder)
    if changed := [name for name, content in contents.items() if content.sha256 != now[name]]:
        raise NotLevel(
            f"Somebody else has written {' and '.join(changed)} meanwhile: lead him to /api/v1/ideas, then run the same "
            "command again."
        )
    return now


@contextmanager
def _stopped(desk: Desk, task: Task) -> Iterator[None]:
    """No write goes on; readers stay where they are. What a crash leaves is a note that says: ask PostgreSQL."""
    fence = Fence(desk.settings.home)
    with fence.closed():
        fence.tell(task.phase, desk.entry().since or _EVER, moving=True)
        try:
            yield
        finally:
            _tell(desk)


def _tell(desk: Desk) -> None:
    entry = desk.entry()
    Fence(desk.settings.home).tell(entry.value, entry.since or _EVER)


def _set_aside(folder: Path, task: Task) -> None:
    """Puts the files where no LowDB looks for them; they are never deleted."""
    for name in FILE_NAMES:
        if (folder / name).exists():
            (folder / SET_ASIDE).mkdir(exist_ok=True)
            (folder / name).rename(folder / SET_ASIDE / f"{task.at:%Y%m%d-%H%M%S}-{name}")


def _standing(folder: Path) -> list[Path]:
    """Where the files are: in their place, else where they were set aside last."""
    aside = {name: max((folder / SET_ASIDE).glob(f"*-{name}"), default=folder / name) for name in FILE_NAMES}
    return [path if path.exists() else aside[path.name] for path in paths_of(folder)]


def _bring_back(folder: Path) -> None:
    """Puts what was set aside last in its place again; what is there stays."""
    for path, stands in zip(paths_of(folder), _standing(folder), strict=True):
        if path != stands:
            stands.rename(path)


@dataclass(frozen=True)
class Plan:
    """What the files are to get."""

    folder: Path
    parts: Sequence[Part]


def plan(desk: Desk, was: str) -> Plan | None:
    """What the files are to get out of the tables; None where they have missed nothing.

    Raises UsageError, IdeasError, FileUnreadable, OSError, and TooLarge where the tables do not fit into files: before
    anything is written.
    """
    if was not in (phases.ACTIVE, phases.FROZEN):
        return None
    folder = levelling.folder_of(desk.settings)
    desk.tell("Looking at the LowDB files")
    contents = levelling.read(_standing(folder))
    found, drafts = (
        levelling.parities(desk.dsn, levelling.records_of(contents)),
        levelling.drafts(desk.dsn, contents),
    )
    with connected(desk.dsn) as db:
        [(history,)] = db.execute("select count(*) from ideas.idea_history").fetchall()
    parts = []
    for name in FILE_NAMES:
        of_file = [found[c.table] for c in COLLECTIONS if c.file == name]
        extra, different = sum(p.extra for p in of_file), sum(p.different for p in of_file)
        parts.append(
            Part(
                name,
                rows=extra + different,
                added=extra,
                filled=different,
                removed=sum(p.missing for p in of_file) + drafts[name].lost,
                beyond=history if name == FILE_NAMES[0] else 0,
            )
        )
    return Plan(folder, parts)


def back(desk: Desk, file: Path, task: Task, found: Plan | None, began: float, _collectors_stopped: bool) -> Task:
    """Makes the files what the tables say, proves it, and sets the phase; then readers and writers are with the files.

    One that has moved already is told once more. Raises what `plan` does, WritesGoOn, NotLevel, PlaceError, OSError.
    """
    if desk.entry().value != task.to:
        _moved_back(desk, file, task, found)
    _tell(desk)
    task = journal.under_way(desk.settings.home, desk.domain) or task
    return (
        task if "readers_s" in task.notes else journal.noted(file, task, readers_s=round(time.monotonic() - began, 3))
    )


def _moved_back(desk: Desk, file: Path, task: Task, found: Plan | None) -> None:
    if found is None:
        with _stopped(desk, task):
            _entered(desk, task)
        return
    require_disk(desk.settings)
    with Files(found.folder, desk.settings.clock).held():
        _bring_back(found.folder)
        contents = levelling.read(paths_of(found.folder))
        task = _saved(desk, file, task, found)
        reached("rollback: folder saved")
        with _stopped(desk, task):
            _replayed(desk, file, task, contents)
            _entered(desk, task)


def _entered(desk: Desk, task: Task) -> None:
    desk.enter(task.to, who=task.who, why=task.why)
    reached("rollback: phase set")


def _saved(desk: Desk, file: Path, task: Task, found: Plan) -> Task:
    """Keeps the files as they are now, in the place of backups: each attempt does, and the first is told beside the plan."""
    files = [path for path in paths_of(found.folder) if path.is_file()]
    spool = desk.settings.folder("spool")
    saved = asdict(folder_backup.save(found.folder, files, backups_of(desk.settings), task.at, spool))
    if "backup" not in task.notes:
        return journal.noted(file, task, backup=saved, parts={part.file: part.numbers() for part in found.parts})
    known = [task.notes["backup"], *task.notes.get("later_backups", ())]
    return task if saved in known else journal.noted(file, task, later_backups=[*known[1:], saved])


def _replayed(desk: Desk, file: Path, task: Task, contents: Mapping[str, Content]) -> None:
    desk.tell("Writing the LowDB files")
    levelling.into_files(desk.dsn, contents, lambda name: reached(f"rollback: {name} written"))
    written = levelling.read([content.path for content in contents.values()])
    proven = levelling.require_level(levelling.parities(desk.dsn, levelling.records_of(written)))
    journal.noted(file, task, proven=proven)
    reached("rollback: parity proven")
