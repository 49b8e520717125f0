"""What a step of the market data does around its phase: the shadow files, and the link that file readers follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from b3_pipeline.cutover import link
from b3_pipeline.cutover.evidence import Desk
from b3_pipeline.cutover.journal import Task
from b3_pipeline.errors import B3Error
from b3_pipeline.failpoints import reached
from b3_pipeline.postgres.flags import AGE_S, SHADOW_FILES, Flags, set_flag
from b3_pipeline.shadow.drift import drift
from b3_pipeline.shadow.files import folder_of
from b3_pipeline.shadow.writing import refresh

#: Where a test ends the process, in the order in which they are reached.
BEFORE = ("advance: shadow files on", "advance: shadow files written")
AFTER = ("advance: link moved",)


class ShadowDiffers(B3Error):
    """The files that readers are about to see are not what the tables say."""


@contextmanager
def moving(desk: Desk, task: Task) -> Iterator[Mapping[str, Any]]:
    """Before file readers are led to our files: these go on with every load, are written anew, and say what the tables do."""
    if _leads_to_ours(task):
        _prepare(desk, task)
    yield {}


def _prepare(desk: Desk, task: Task) -> None:
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


def follow(desk: Desk, task: Task) -> None:
    """Once the phase has moved: the link, and the shadow files once more.

    A load that had begun before they went on may have ended without them.
    """
    link.follow(desk.settings, task.to)
    reached("advance: link moved")
    if _leads_to_ours(task) and (failed := _not_written(desk)):
        raise ShadowDiffers(
            f"The phase is {task.to}, and the shadow files could not be written again: {'; '.join(failed)}. "
            "`b3 cutover advance` goes on with it."
        )


def _not_written(desk: Desk) -> list[str]:
    """Writes the shadow files anew; returns what went wrong."""
    reports = refresh(desk.db, folder_of(desk.settings))
    return [f"{report.file}: {report.reason}" for report in reports if not report.ok]


def _leads_to_ours(task: Task) -> bool:
    return task.to in link.OURS and task.phase not in link.OURS
