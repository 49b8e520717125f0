"""The way back, from any phase: readers first, then the legacy files get what they lack, and that is proven.

What was cut off, by a crash or because the collectors ran still, is finished by the same command.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from b3_pipeline import migration_log
from b3_pipeline.cutover import folder_backup, journal, link, phases, replaying
from b3_pipeline.cutover.evidence import Desk
from b3_pipeline.cutover.journal import Task
from b3_pipeline.cutover.replaying import BEYOND, Part
from b3_pipeline.errors import B3Error
from b3_pipeline.failpoints import reached
from b3_pipeline.home import require_disk
from b3_pipeline.loaders import loader_of
from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.payloads import survey
from b3_pipeline.parsing.kinds import LEGACY_KINDS
from b3_pipeline.places import backups_of
from b3_pipeline.postgres.flags import PHASE, Entry, Flags, require, user
from b3_pipeline.quality.checks import Check, checks_of, parity_check
from b3_pipeline.quality.finding import Context
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
#: A folder in which nothing has changed for so long has no collector at work.
QUIET = timedelta(minutes=10)
_WAY_BACK = "`b3 cutover advance`; the legacy files as they were before: the backup named here"


class CollectorsRun(B3Error):
    """Readers are back, and the legacy files cannot be written yet: their collectors may be at it."""


class ReplayDiffers(B3Error):
    """After the replay the legacy files and the tables are not the same."""


@dataclass(frozen=True)
class RolledBack:
    """What came of a call: the phase that it found and the one that stands, what each file gets, and what stays behind.

    `readers_s`: how long it took until link and phase were the legacy side's again; None where they were. `proven` are
    the numbers of parity by table and feed. `log` is the log's file.
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
            part.file: {"beyond": part.beyond, "what": BEYOND[part.file], "stands": part.stands}
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

    Out of shadow only phase and link go back, for the legacy side has missed nothing. Raises CollectorsRun when nobody
    says that the collectors are stopped and the files have just changed: readers are back by then, and the same command
    does the rest. Raises CutoverBusy, B3Error, OSError: then the same call goes on where it stopped.
    """
    phases.steps_of(desk.domain)
    reason = why.strip() or "decided by the operator"
    require(Entry(desk.domain, PHASE.name, phases.LEGACY, None, who or user(), reason))
    with journal.alone(desk.settings.home, desk.domain) as file:
        now, task = desk.entry().value, journal.under_way(desk.settings.home, desk.domain)
        going_on = task is not None and task.kind == "rollback"
        was = task.phase if task and going_on else now
        folder = _folder(desk) if was in link.OURS else None
        parts = _plan(desk, folder)
        found = RolledBack(was, now, parts)
        announce(found)
        if dry_run or (now == phases.LEGACY and not going_on):
            return found
        if task is None or not going_on:
            task = Task("rollback", was, phases.LEGACY, desk.now.isoformat(), who or user(), reason)
            journal.keep(file, task)
            reached("rollback: noted")
        readers_s = _readers_back(desk, task)
        if folder is not None:
            task = _written(desk, file, task, folder, parts, collectors_stopped=collectors_stopped)
        task = _with(file, task, readers_s=round(readers_s, 3))
        log = _log(desk, task)
        reached("rollback: logged")
        journal.done(file)
        notes = task.notes
        return RolledBack(was, phases.LEGACY, parts, readers_s, notes.get("proven", {}), notes.get("backup", {}), log)


def _folder(desk: Desk) -> Path:
    folder = desk.settings.legacy_dir
    if folder is None or not folder.is_dir():
        raise B3Error(
            f"The way back leads into the legacy folder, and {folder or 'B3_LEGACY_DIR'} is "
            f"{'not there' if folder else 'not set'}. Set B3_LEGACY_DIR to the folder in which the legacy collectors write."
        )
    return folder.expanduser().absolute()


def _plan(desk: Desk, folder: Path | None) -> list[Part]:
    if folder is None:
        return []
    parts = []
    for part in replaying.plan(desk.db, folder):
        desk.tell(f"Looking at {part.file}")
        parts.append(part)
    return parts


def _readers_back(desk: Desk, task: Task) -> float:
    """Leads readers of routes and of files back to the legacy side; returns the seconds that it took."""
    began = time.monotonic()
    if desk.entry().value != task.to:
        desk.enter(task.to, who=task.who, why=task.why)
    reached("rollback: phase set")
    link.follow(desk.settings, task.to)
    reached("rollback: link moved")
    return time.monotonic() - began


def _written(
    desk: Desk, file: Path, task: Task, folder: Path, parts: Sequence[Part], *, collectors_stopped: bool
) -> Task:
    """Writes what the legacy files lack, after a backup of them, loads them as what they are now, and proves parity."""
    require_disk(desk.settings)
    if "collectors" not in task.notes:
        task = _with(file, task, collectors=_stopped(folder, said=collectors_stopped))
    if "backup" not in task.notes:
        desk.tell("Saving the legacy folder")
        spool = desk.settings.folder("spool")
        saved = folder_backup.save(folder, backups_of(desk.settings), task.at, spool)
        task = _with(file, task, backup=asdict(saved), parts={part.file: part.numbers() for part in parts})
    reached("rollback: folder saved")
    for part in parts:
        desk.tell(f"Writing {part.file}")
        replaying.write(folder, part, lambda _name: None)
        reached(f"rollback: {part.file} written")
    _load(desk, folder)
    reached("rollback: files loaded")
    task = _with(file, task, proven=_prove(desk, folder, parts))
    reached("rollback: parity proven")
    return task


def _stopped(folder: Path, *, said: bool) -> str:
    """How it is known that the collectors are stopped. Raises CollectorsRun when it is not."""
    changed = max((path.stat().st_mtime for path in folder_backup.legacy_files(folder)), default=0.0)
    quiet_s = time.time() - changed
    if said:
        return "the operator says so"
    if quiet_s >= QUIET.total_seconds():
        return f"no file has changed for {quiet_s / 60:.0f} minutes"
    raise CollectorsRun(
        f"Readers are back with the legacy side. A legacy file changed {max(0, quiet_s):.0f} s ago, so its collectors may run "
        "still, and nothing was written there. Stop them, then `b3 cutover rollback --collectors-stopped` writes what the "
        "files lack."
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
            raise ReplayDiffers(
                f"{given.name} is not what was written: its collectors run. Stop them, and run this again."
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


def _with(file: Path, task: Task, **notes: Any) -> Task:
    return journal.keep(file, replace(task, notes={**task.notes, **notes}))


def _log(desk: Desk, task: Task) -> Path:
    notes = task.notes
    saved = notes.get("backup", {})
    step = migration_log.Step(
        kind="rollback",
        title=f"The {desk.domain} data from {task.phase} back to {task.to}",
        at=task.at,
        outcome="done",
        seconds=max(0.0, (desk.settings.clock() - task.at).total_seconds()),
        way_back=_WAY_BACK if saved else "`b3 cutover advance`",
        why=task.why,
        who=task.who,
        counts={**notes.get("parts", {}), **notes.get("proven", {})},
        checksums={saved["name"]: saved["sha256"]} if saved else {},
        details={"task": task.id, **notes},
    )
    return journal.logged_once(desk.settings.home, task, step)
