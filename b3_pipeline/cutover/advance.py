"""One step forward: its gates are asked, then readers move. A step that a crash has cut off is finished by the next call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from b3_pipeline import migration_log
from b3_pipeline.cutover import evidence, ideas, journal, market, phases
from b3_pipeline.cutover.evidence import Desk
from b3_pipeline.cutover.gates import Gate
from b3_pipeline.cutover.journal import Task
from b3_pipeline.errors import B3Error, UsageError
from b3_pipeline.failpoints import reached
from b3_pipeline.postgres.flags import IDEAS, LONGEST_TEXT, MARKET, PHASE, Entry, require, user


class Moves(NamedTuple):
    """What a step of a domain does: `moving` is held while the phase is set, and gives notes for the log; `follow` comes then.

    `before` and `after` are the points at which a test ends the process in them.
    """

    moving: Callable[[Desk, Task], AbstractContextManager[Mapping[str, Any]]]
    follow: Callable[[Desk, Task], None]
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def steps(self) -> tuple[str, ...]:
        """All points at which a test ends the process, in their order."""
        return ("advance: noted", *self.before, "advance: phase set", *self.after, "advance: logged")


MOVES: Mapping[str, Moves] = {
    MARKET: Moves(market.moving, market.follow, market.BEFORE, market.AFTER),
    IDEAS: Moves(ideas.moving, ideas.follow, ideas.BEFORE, ideas.AFTER),
}
_GREEN = "all gates are green"


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
                f"A rollback was begun at {task.began} and has not ended: `b3 cutover rollback{journal.option(desk.domain)}` goes on "
                "with it."
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
        with MOVES[desk.domain].moving(desk, task) as notes:
            task = journal.noted(file, task, **notes)
            desk.enter(task.to, who=task.who, why=task.why)
            reached("advance: phase set")
        return Advanced(task.to, task.to, found, moved=True, log=_conclude(desk, file, task))


def _reason(why: str, red: Sequence[Gate]) -> str:
    if not red:
        return why.strip() or _GREEN
    return f"override of {', '.join(gate.name for gate in red)}: {why.strip()}"[:LONGEST_TEXT]


def _conclude(desk: Desk, file: Path, task: Task) -> Path:
    """What follows once the phase has moved, and the log; then nothing is under way any more."""
    MOVES[desk.domain].follow(desk, task)
    told = task.notes.get("gates", ())
    found = [Gate(given["name"], given["ok"], given["evidence"], desk.domain) for given in told]
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
        way_back=f"`b3 cutover rollback{journal.option(desk.domain)}`" if outcome == "done" else "nothing was changed",
        why=task.why,
        who=task.who,
        counts={
            **{gate.name: f"{'green' if gate.ok else 'RED'}: {gate.evidence}" for gate in found},
            **task.notes.get("parity", {}),
        },
        checksums=task.notes.get("files", {}),
        details={"phase": task.phase, "to": task.to, "override": task.override, "task": task.id},
    )
    return journal.logged_once(desk.settings.home, task, step)
