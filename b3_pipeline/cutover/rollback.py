"""The way back, from any phase: readers first, then the legacy files get what they lack, and that is proven.

What was cut off, by a crash or because the collectors ran still, is finished by the same command.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from b3_pipeline import migration_log
from b3_pipeline.cutover import folder_backup, ideas, journal, link, phases, replaying
from b3_pipeline.cutover.evidence import Desk
from b3_pipeline.cutover.journal import Task
from b3_pipeline.cutover.replaying import BEYOND, CollectorsWrite, Part
from b3_pipeline.errors import B3Error
from b3_pipeline.failpoints import reached
from b3_pipeline.home import require_disk
from b3_pipeline.loaders import loader_of
from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.payloads import survey
from b3_pipeline.parsing.kinds import LEGACY_KINDS
from b3_pipeline.places import backups_of
from b3_pipeline.postgres.flags import IDEAS, MARKET, PHASE, Entry, Flags, require, user
from b3_pipeline.quality.checks import Check, checks_of, parity_check
from b3_pipeline.quality.finding import Context, reason_of
from b3_pipeline.quality.of_home import context_of
from b3_pipeline.quality.sources import at_hand, feeds_of
from b3_pipeline.sessions import ALWAYS
from b3_pipeline.tables import MARKET_TABLES

#: Where a test ends the process: after each of what a rollback does.
STEPS = (
    "rollback: noted",
    "rollback: phase set",
    "rollback: link moved",
    "rollback: folder saved",
    *(f"rollback: {kind.file} written" for kind in LEGACY_KINDS),
    "rollback: files loaded",
    "rollback: parity proven",
    "rollback: logged",
)
_COLLECTORS = "collectors"
_BEYOND = {**BEYOND, **ideas.BEYOND}


class CollectorsRun(B3Error):
    """Readers are back, and the legacy files cannot be written yet: their collectors may be at it."""


class FilesWait(B3Error):
    """Readers are back, and what the legacy files lack could not be found out: nothing was written there yet."""


class ReplayDiffers(B3Error):
    """After the replay the legacy files and the tables are not the same."""


@dataclass(frozen=True)
class RolledBack:
    """What came of a call: the phase that it found and the one that stands, what each file gets, and what stays behind.

    `readers_s`: how long after the first call link and phase were the legacy side's again; None where they were. `proven`
    are the numbers of parity by table and feed. `log` is the log's file.
    """

    was: str
    phase: str
    parts: Sequence[Part]
    readers_s: float | None = None
    proven: Mapping[str, Any] = field(default_factory=dict)
    backup: Mapping[str, Any] = field(default_factory=dict)
    log: Path | None = None

    @property
    def stays(self) -> dict[str, dict[str, Any]]:
        """What cannot go back, by file: how many rows, what they are, and where the file keeps its own value."""
        return {
            part.file: {"beyond": part.beyond, "what": _BEYOND[part.file], "stands": part.stands}
            for part in self.parts
            if part.beyond or part.stands
        }


def rollback(
    desk: Desk,
    *,
    why: str = "",
    who: str = "",
    collectors_stopped: bool = False,
    dry_run: bool = False,
    announce: Callable[[RolledBack], object] = lambda _plan: None,
) -> RolledBack:
    """Takes a domain back to the phase legacy. `announce` is told what cannot go back, before anything is done.

    Out of shadow only phase and link go back, for the legacy side has missed nothing. Raises FilesWait when nobody can say
    what the files lack, CollectorsRun when there is something to write and nobody says that the collectors are stopped:
    readers are back by then, and the same command does the rest. Raises CutoverBusy, B3Error, OSError: then the same call
    goes on where it stopped.
    """
    began = time.monotonic()
    phases.steps_of(desk.domain)
    way = WAYS[desk.domain]
    reason = why.strip() or "decided by the operator"
    require(Entry(desk.domain, PHASE.name, phases.LEGACY, None, who or user(), reason))
    with journal.alone(desk.settings.home, desk.domain) as file:
        now, task = desk.entry().value, journal.under_way(desk.settings.home, desk.domain)
        going_on = task is not None and task.kind == "rollback"
        was = task.phase if task and going_on else now
        plan = way.plan(desk, was)
        if dry_run and isinstance(plan, Exception):
            raise plan
        found = RolledBack(was, now, [] if plan is None or isinstance(plan, Exception) else plan.parts)
        if not isinstance(plan, Exception):
            announce(found)
        if dry_run or (now == phases.LEGACY and not going_on):
            return found
        if task is None or not going_on:
            task = Task("rollback", was, phases.LEGACY, desk.now.isoformat(), who or user(), reason)
            journal.keep(file, task)
            reached("rollback: noted")
        task = way.back(desk, file, task, plan, began, collectors_stopped)
        log = _log(desk, task)
        reached("rollback: logged")
        journal.done(file)
        notes = task.notes
        given = {name: notes.get(name, {}) for name in ("proven", "backup")}
        return replace(found, phase=phases.LEGACY, readers_s=notes["readers_s"], **given, log=log)


@dataclass(frozen=True)
class _Plan:
    """What the legacy folder is to get, and how its files were before it was looked at."""

    folder: Path
    parts: Sequence[Part]
    seen: Mapping[str, folder_backup.Stamp]


def _folder(desk: Desk) -> Path:
    folder = desk.settings.legacy_dir
    if folder is None or not folder.is_dir():
        raise B3Error(
            f"The way back leads into the legacy folder, and {folder or 'B3_LEGACY_DIR'} is "
            f"{'not there' if folder else 'not set'}. Set B3_LEGACY_DIR to the folder in which the legacy collectors write."
        )
    return folder.expanduser().absolute()


def _plan(desk: Desk, was: str) -> _Plan | Exception | None:
    """What the legacy folder is to get, or why nobody can say: whatever that is, readers must not stay with us for it.

    None out of a phase in which it has missed nothing.
    """
    if was not in link.OURS:
        return None
    try:
        folder = _folder(desk)
        seen = folder_backup.stamps(folder)
        parts = []
        for part in replaying.plan(desk.db, folder):
            desk.tell(f"Looking at {part.file}")
            parts.append(part)
        return _Plan(folder, parts, seen)
    except Exception as error:
        return error


def _waiting(desk: Desk, failure: Exception) -> str:
    """What a person is told when readers are back and the files could not be looked at."""
    readers = "Readers are back with the legacy side."
    if link.target(desk.settings, phases.LEGACY) is None:
        readers = "The phase is legacy. Nobody can say where file readers are to go: the link leads where it did."
    return (
        f"{readers} What the legacy files lack is not known, and nothing was written there: {reason_of(failure)} "
        "Once that is right, `b3 cutover rollback --collectors-stopped` does the rest."
    )


def _back(
    desk: Desk, file: Path, task: Task, plan: _Plan | Exception | None, began: float, collectors_stopped: bool
) -> Task:
    """Leads readers back, and then writes what the files lack."""
    task = _readers_back(desk, file, task, began)
    if isinstance(plan, Exception):
        raise FilesWait(_waiting(desk, plan)) from plan
    if plan is not None:
        task = _written(desk, file, task, plan, collectors_stopped=collectors_stopped)
    return task


def _readers_back(desk: Desk, file: Path, task: Task, began: float) -> Task:
    """Leads readers of routes and of files back to the legacy side; notes how long after the call that was, once."""
    if desk.entry().value != task.to:
        desk.enter(task.to, who=task.who, why=task.why)
    reached("rollback: phase set")
    link.follow(desk.settings, task.to)
    reached("rollback: link moved")
    return (
        task if "readers_s" in task.notes else journal.noted(file, task, readers_s=round(time.monotonic() - began, 3))
    )


def _written(desk: Desk, file: Path, task: Task, plan: _Plan, *, collectors_stopped: bool) -> Task:
    """Writes what the legacy files lack, after a backup of them, loads them as what they are now, and proves parity."""
    folder, parts = plan.folder, plan.parts
    require_disk(desk.settings)
    if _COLLECTORS not in task.notes:
        task = journal.noted(file, task, collectors=_stopped(plan, said=collectors_stopped))
    if "backup" not in task.notes:
        desk.tell("Saving the legacy folder")
        spool = desk.settings.folder("spool")
        saved = folder_backup.save(
            folder, folder_backup.legacy_files(folder), backups_of(desk.settings), task.at, spool
        )
        task = journal.noted(file, task, backup=asdict(saved), parts={part.file: part.numbers() for part in parts})
    reached("rollback: folder saved")
    try:
        for part in parts:
            desk.tell(f"Writing {part.file}")
            replaying.write(folder, part, lambda _name: None)
            reached(f"rollback: {part.file} written")
        _load(desk, folder)
        reached("rollback: files loaded")
        task = journal.noted(file, task, proven=_prove(desk, folder, parts))
    except CollectorsWrite:  # they are not stopped, whoever said so
        journal.keep(file, replace(task, notes={k: v for k, v in task.notes.items() if k != _COLLECTORS}))
        raise
    reached("rollback: parity proven")
    return task


def _stopped(plan: _Plan, *, said: bool) -> str:
    """How it is known that the collectors are stopped. Raises CollectorsRun when it is not.

    That the files are quiet alone proves nothing: a collector may come once in a session.
    """
    if not any(part.changed for part in plan.parts):
        return "nothing is written into their files"
    stamps = folder_backup.stamps(plan.folder)
    if changed := sorted(name for name, stamp in stamps.items() if plan.seen.get(name) != stamp):
        why = f"{', '.join(changed)} changed while this command looked at the folder, so its collectors run"
    elif not said:
        why = "nobody has said that the collectors of its files are stopped"
    else:
        newest = max((stamp.modified_ns for stamp in stamps.values()), default=0)
        quiet_s = max(0.0, time.time() - newest / 1e9)
        return f"the operator says so, and no file has changed for {quiet_s / 60:.0f} minutes"
    raise CollectorsRun(
        f"Readers are back with the legacy side. Nothing was written into the legacy folder: {why}. Stop them, then "
        "`b3 cutover rollback --collectors-stopped` writes what the files lack."
    )


def _load(desk: Desk, folder: Path) -> None:
    """Loads the files as any that the legacy side has written: equal values are duplicates, and stay so."""
    desk.tell("Loading the legacy files")
    flags = Flags(desk.settings.home, desk.dsn)
    loader = loader_of(desk.settings, desk.db, "b3 cutover rollback", flags.current, progress=desk.progress)
    payloads = [payload for found in survey(folder) if (payload := found.loadable)]
    failed = [
        f"{report.payload.name}: {report.reason}"
        for table in MARKET_TABLES
        for report in load_all(loader, payloads, table)
        if report.outcome == "failed"
    ]
    if failed:
        raise B3Error(f"Not all of the legacy files could be loaded again: {'; '.join(failed)}.")


def _prove(desk: Desk, folder: Path, parts: Sequence[Part]) -> dict[str, Any]:
    """That the files lack nothing that they can hold, keep what they had, and that the tables say what they do."""
    desk.tell("Proving parity")
    for part in replaying.plan(desk.db, folder):
        if part.changed:
            raise ReplayDiffers(f"{part.file} lacks {part.rows} rows still. Run the same command again.")
    for given in (plan for part in parts for plan in part.files):
        if (folder / given.name).read_bytes() != given.data:
            raise CollectorsWrite(
                f"{given.name} is not what was written: its collectors run. Stop them, then "
                "`b3 cutover rollback --collectors-stopped` goes on."
            )
    files = at_hand(folder, desk.settings.home)
    context = context_of(desk.settings, desk.db, files, desk.dsn, Flags(desk.settings.home, desk.dsn).current())
    return dict(_parities(context))


def _parities(context: Context) -> Sequence[tuple[str, Mapping[str, Any]]]:
    found = []
    for check in _checks():
        finding = check.finding(context, ALWAYS)
        if not (finding.passed or finding.undecided):
            raise ReplayDiffers(
                f"{check.table.name}, {check.name}: {finding.numbers or finding.advice}. `b3 validate` names the rows; then "
                "run the same command again."
            )
        if finding.numbers.get("source_keys"):
            numbers = {name: finding.numbers[name] for name in ("source_keys", "missing", "extra", "different")}
            found.append((f"{check.table.name} {check.name.removeprefix('parity_')}", numbers))
    return found


def _checks() -> list[Check]:
    """Parity of what the legacy files fill, and that their documents are given back."""
    feeds = {kind.feed for kind in LEGACY_KINDS}
    checks = [parity_check(table, feed) for table in MARKET_TABLES for feed in feeds_of(table) if feed in feeds]
    return [*checks, *(check for table in MARKET_TABLES for check in checks_of(table) if check.name == "rebuild")]


class Way(NamedTuple):
    """How a domain goes back: `plan` says what its files are to get (None: nothing; an error: readers go back all the same),
    `back` does it, given when the call began (monotonic) and whether it was said that the collectors are stopped.
    """

    plan: Callable[[Desk, str], Any]
    back: Callable[[Desk, Path, Task, Any, float, bool], Task]
    steps: tuple[str, ...]


WAYS: Mapping[str, Way] = {MARKET: Way(_plan, _back, STEPS), IDEAS: Way(ideas.plan, ideas.back, ideas.BACK)}


def _log(desk: Desk, task: Task) -> Path:
    notes = task.notes
    saved = notes.get("backup", {})
    forward = f"`b3 cutover advance{journal.option(desk.domain)}`"
    step = migration_log.Step(
        kind="rollback",
        title=f"The {desk.domain} data from {task.phase} back to {task.to}",
        at=task.at,
        outcome="done",
        seconds=max(0.0, (desk.settings.clock() - task.at).total_seconds()),
        way_back=forward + ("; the files as they were before: the backup named here" if saved else ""),
        why=task.why,
        who=task.who,
        counts={**notes.get("parts", {}), **notes.get("proven", {})},
        checksums={each["name"]: each["sha256"] for each in (saved, *notes.get("later_backups", ())) if each},
        details={"task": task.id, **notes},
    )
    return journal.logged_once(desk.settings.home, task, step)
