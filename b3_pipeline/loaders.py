"""A loader on the servers of a home, with what follows each load: its records are counted, and the shadow files have them.

Every way of loading takes its loader from here, so that none of them forgets the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from b3_pipeline.loading.load import Loader, LoadReport
from b3_pipeline.metrics import instruments
from b3_pipeline.postgres.flags import SHADOW_FILES, Current
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.settings import Settings
from b3_pipeline.shadow.files import SharedFolder, folder_of
from b3_pipeline.shadow.writing import shadow_loads
from b3_pipeline.warehouse.retention import taken_of

_log = logging.getLogger(__name__)
#: Told in a sentence what went wrong beside a load.
Complain = Callable[[str], Any]


def loader_of(
    settings: Settings,
    db: QuestDB,
    run_id: str,
    flags: Callable[[], Current],
    *,
    complain: Complain = _log.error,
    **more: Any,
) -> Loader:
    """A loader on a connection; `flags` says how they stand now, `more` are the loader's other members."""
    instruments.ready(settings)

    def follow(reports: Sequence[LoadReport]) -> None:
        _count(reports)
        _shadow(settings, flags(), db, reports, complain)

    return Loader(db, settings.home, settings.clock, run_id, follow=follow, taken=taken_of(settings), **more)


def _count(reports: Iterable[LoadReport]) -> None:
    for report in reports:
        if report.load is not None and report.outcome in ("loaded", "partial", "rejected"):
            load = report.load
            instruments.loaded(load.table_name, load.feed, {**load.counts, "revised": load.revised}, load.seconds)


def _shadow(settings: Settings, flags: Current, db: QuestDB, reports: Sequence[LoadReport], complain: Complain) -> None:
    """Writes what was loaded into the shadow files, too, while they are on. Nothing that goes wrong there is the load's."""
    try:
        folder = folder_of(settings) if flags.is_on(SHADOW_FILES.name) else None
    except SharedFolder as error:
        complain(f"No shadow files are written: {error}")
        return
    for report in shadow_loads(db, folder, reports) if folder else ():
        instruments.shadowed(report.file, "unchanged" if report.outcome == "nothing" else report.outcome)
        if not report.ok:
            complain(f"Shadow file {report.file}: {report.reason}")
