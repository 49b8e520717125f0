"""One step forward: its gates are asked, then readers move. A step that a crash has cut off is finished by the next call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from b3_pipeline import migration_log
from b3_pipeline.cutover import evidence, journal, link, phases
from b3_pipeline.cutover.evidence import Desk
from b3_pipeline.cutover.gates import Gate
from b3_pipeline.cutover.journal import Task
from b3_pipeline.errors import B3Error, UsageError
from b3_pipeline.failpoints import reached
from b3_pipeline.postgres.flags import AGE_S, LONGEST_TEXT, PHASE, SHADOW_FILES, Entry, Flags, require, set_flag, user
from b3_pipeline.shadow.drift import drift
from b3_pipeline.shadow.files import folder_of
from b3_pipeline.shadow.writing import refresh

#: Where a test ends the process: after each of what a step does.
STEPS = (
    "advance: noted",
    "advance: shadow files on",
    "advance: shadow files written",
    "advance: phase set",
    "advance: link moved",
    "advance: logged",
)
_GREEN = "all gates are green"
_WAY_BACK = "`b3 cutover rollback`"


class ShadowDiffers(B3Error):
    """The files that readers are about to see are not what the tables say."""


class Unfinished(B3Error):
    """Something else was begun and has not ended."""


@dataclass(frozen=True)
class Advanced:
    """What came of a call: the phase that stands now, the gates that were asked, whether it moved, and the log's file."""

    phase: str
    to: str
    gates: Sequence[Gate]
    moved: bool
    log: Path | None = None

    @property
    def red(self) -> list[Gate]:
        """The gates that are not green."""
        return [gate for gate in self.gates if not gate.ok]


def advance(
    desk: Desk,
    *,
    why: str = "",
    who: str = "",
    override: bool = False,
    dry_run: bool = False,
    announce: Callable[[Gate], object] = lambda _gate: None,
) -> Advanced:
    """Moves a domain to its next phase if every gate is green, or the operator overrides them and says why.

    `announce` is told each gate as soon as it was looked at. Raises UsageError where there is no further phase or no
    reason, CutoverBusy, Unfinished while a rollback is, B3Error for what goes wrong: then the same call goes on.
    """
    steps = phases.steps_of(desk.domain)
    if override and not why.strip():
        raise UsageError('An override needs a reason, for those who read the history: --why "…".')
    require(Entry(desk.domain, PHASE.name, PHASE.default, None, who or user(), why.strip() or _GREEN))
    with journal.alone(desk.settings.home, desk.domain) as file:
        phase, task = desk.entry().value, journal.under_way(desk.settings.home, desk.domain)
        if task and task.kind == "rollback":
            raise Unfinished(
                f"A rollback was begun at {task.began} and has not ended: `b3 cutover rollback` goes on with it."
            )
        if task and task.to == phase:  # it has moved; what follows was cut off
            return Advanced(phase, phase, [], moved=True, log=None if dry_run else _conclude(desk, file, task))
        if phase not in steps:
            raise UsageError(f"The phase is {phase}, and none follows.")
        found = evidence.look(desk, steps[phase], announce)
        answer = Advanced(phase, steps[phase].to, found, moved=False)
        if dry_run:
            return answer
        if answer.red and not override:
            _log(desk, Task("advance", phase, answer.to, desk.now.isoformat(), who or user(), why), found, "refused")
            return answer
        reason = _reason(why, answer.red)
        task = Task("advance", phase, answer.to, desk.now.isoformat(), who or user(), reason, bool(answer.red))
        task = journal.keep(file, replace(task, notes={"gates": [gate.document() for gate in found]}))
        reached("advance: noted")
        _prepare(desk, task)
        desk.enter(task.to, who=task.who, why=task.why)
        reached("advance: phase set")
        return Advanced(task.to, task.to, found, moved=True, log=_conclude(desk, file, task))


def _reason(why: str, red: Sequence[Gate]) -> str:
    if not red:
        return why.strip() or _GREEN
    return f"override of {', '.join(gate.name for gate in red)}: {why.strip()}"[:LONGEST_TEXT]


def _prepare(desk: Desk, task: Task) -> None:
    """Before file readers are led to our files: these go on with every load, are written anew, and say what the tables do."""
    if not _leads_to_ours(task):
        return
    folder = folder_of(desk.settings)
    if not Flags(desk.settings.home, desk.dsn).current().is_on(SHADOW_FILES.name, desk.domain):
        why = f"the phase goes to {task.to}"
        set_flag(desk.dsn, SHADOW_FILES.name, "on", why=why, who=task.who, at=desk.now, domain=desk.domain)
    reached("advance: shadow files on")
    desk.tell("Writing the shadow files")
    desk.sleep(AGE_S)  # until then another process may load without writing them
    failed = _not_written(desk)
    failed += [f"{found.file} and {found.table} differ" for found in drift(desk.db, folder) if not found.ok]
    if failed:
        raise ShadowDiffers(
            f"The phase is {task.phase} still, for the shadow files are not right: {'; '.join(failed)}."
        )
    reached("advance: shadow files written")


def _not_written(desk: Desk) -> list[str]:
    """Writes the shadow files anew; returns what went wrong."""
    reports = refresh(desk.db, folder_of(desk.settings))
    return [f"{report.file}: {report.reason}" for report in reports if not report.ok]


def _leads_to_ours(task: Task) -> bool:
    return task.to in link.OURS and task.phase not in link.OURS


def _conclude(desk: Desk, file: Path, task: Task) -> Path:
    """What follows once the phase has moved: the link, the log; then nothing is under way any more.

    The shadow files are written once more: a load that had begun before they went on may have ended without them.
    """
    link.follow(desk.settings, task.to)
    reached("advance: link moved")
    if _leads_to_ours(task) and (failed := _not_written(desk)):
        raise ShadowDiffers(
            f"The phase is {task.to}, and the shadow files could not be written again: {'; '.join(failed)}. "
            "`b3 cutover advance` goes on with it."
        )
    found = [Gate(given["name"], given["ok"], given["evidence"]) for given in task.notes.get("gates", ())]
    path = _log(desk, task, found, "done")
    reached("advance: logged")
    journal.done(file)
    return path


def _log(desk: Desk, task: Task, found: Sequence[Gate], outcome: str) -> Path:
    title = f"The {desk.domain} data from {task.phase} to {task.to}"
    step = migration_log.Step(
        kind="cutover",
        title=title if outcome == "done" else f"{title}: refused",
        at=task.at,
        outcome=outcome,
        seconds=max(0.0, (desk.settings.clock() - task.at).total_seconds()),
        way_back=_WAY_BACK if outcome == "done" else "nothing was changed",
        why=task.why,
        who=task.who,
        counts={gate.name: f"{'green' if gate.ok else 'RED'}: {gate.evidence}" for gate in found},
        details={"phase": task.phase, "to": task.to, "override": task.override, "task": task.id},
    )
    return journal.logged_once(desk.settings.home, task, step)
