"""What the checks of a home are given: its gaps, flags and live sources, beside what they look at."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from b3_pipeline.capture_differences import Comparison
from b3_pipeline.choosing import LEGACY_FEEDS
from b3_pipeline.loading.payloads import Found
from b3_pipeline.postgres import comparisons
from b3_pipeline.postgres.flags import PHASE, SHADOW_FILES, Current
from b3_pipeline.postgres.known_gaps import GapKey, KnownGapsError, open_known_gaps
from b3_pipeline.quality.finding import Context
from b3_pipeline.quality.gaps import known_gaps
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.settings import Settings
from b3_pipeline.shadow.files import SharedFolder, folder_of
from b3_pipeline.sources.catalog import Source, collected
from b3_pipeline.warehouse import retention_log


def context_of(settings: Settings, db: QuestDB, files: Sequence[Found], dsn: str | None, flags: Current) -> Context:
    """What checks look at in a home, when these are the sources at hand. `dsn` None: PostgreSQL is away."""
    taken = retention_log.known(dsn, settings.home)
    return Context(
        db,
        settings.home,
        settings.clock(),
        files,
        expired=taken.windows,
        expired_rows=taken.rows,
        known_gaps=known_gaps(settings.known_gaps),
        marked_gaps=_marked_gaps(dsn),
        live=live_of(settings, flags.phase()),
        shadow=shadow_of(settings, flags),
        compared=partial(_compared, dsn),
        phase=flags.phase(),
    )


def live_of(settings: Settings, phase: str) -> tuple[Source, ...]:
    """The sources that something is expected of: in phase frozen the legacy collectors are stopped."""
    sources = collected(settings).values()
    return tuple(s for s in sources if phase != PHASE.values[-1] or s.kind.feed not in LEGACY_FEEDS)


def shadow_of(settings: Settings, flags: Current) -> Path | None:
    """The folder of our shadow files, while they are to be written."""
    if not flags.is_on(SHADOW_FILES.name):
        return None
    try:
        return folder_of(settings)
    except SharedFolder:  # nothing is written there, and so nothing will be found
        return settings.home / "shadow"


def _marked_gaps(dsn: str | None) -> frozenset[GapKey]:
    """The gaps that are known to stay; none while PostgreSQL is away."""
    try:
        with open_known_gaps(dsn) if dsn else nullcontext() as known:
            return known.marked() if known else frozenset()
    except KnownGapsError:
        return frozenset()


def _compared(dsn: str | None) -> Sequence[Comparison]:
    """The last comparisons of legacy and composed captures; none while PostgreSQL is away."""
    return comparisons.latest(dsn) if dsn else ()
