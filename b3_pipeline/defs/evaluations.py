"""Checks without a run: what a tick looks at after it has loaded, and what it may say of it."""

from collections.abc import Iterator

import dagster as dg

from b3_pipeline.defs.checks import Span, cannot_clear, red_over, told
from b3_pipeline.defs.resources import Store
from b3_pipeline.loading import archived, kept
from b3_pipeline.parsing.kinds import REPORT
from b3_pipeline.quality.checks import Context, checks_of, twice
from b3_pipeline.quality.sources import kinds_of
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import ALWAYS, Window, session_before, session_of, to_local, window
from b3_pipeline.tables import MARKET_TABLES, Table

#: How many sessions a tick looks at, today's included; the nightly validation looks at everything.
RECENT_SESSIONS = 5
#: The checks that cost milliseconds, and beside them the parity of the feed that was loaded.
_QUICK = {
    "wal",
    "freshness",
    "composed",
    "unique_keys",
    "hard_bounds",
    "soft_bounds",
    "rejects",
    "feeds_agree",
    "shadow",
}


def evaluations(
    instance: dg.DagsterInstance, store: Store, db: QuestDB, table: Table, feed: str
) -> Iterator[dg.AssetCheckEvaluation]:
    """The quick checks of a table and the parity of one feed, over the last sessions.

    What was found wrong by a look farther back, a tick cannot clear: of such a check it says nothing while it finds
    nothing itself.
    """
    checks = [check for check in checks_of(table) if check.name in {*_QUICK, f"parity_{feed}"}]
    first = session_of(to_local(store.settings.clock()).date())
    for _ in range(RECENT_SESSIONS - 1):
        first = session_before(first)
    within, looked_at, red = Window(window(first, first).start), Span(first.isoformat()), red_over(instance, checks)

    def context() -> Context:
        kinds = kinds_of(table, feed)
        files = archived.found(store.archive, [kind.name for kind in kinds], first) if kinds else []
        return store.context(db, [*(kept.kept(store.settings.home) if REPORT in kinds else ()), *files])

    at_first = context()
    for check in checks:
        finding = twice(check, at_first, context, within)
        if not cannot_clear(check, finding, looked_at, red):
            yield dg.AssetCheckEvaluation(**told(check, finding, looked_at, red))


def freshness(store: Store, db: QuestDB) -> dict[str, dg.AssetCheckEvaluation]:
    """The evaluation of each market table's freshness, by table."""
    context = store.context(db, [])
    checks = [check for table in MARKET_TABLES for check in checks_of(table) if check.name == "freshness"]
    return {
        check.table.name: dg.AssetCheckEvaluation(**told(check, check.finding(context, ALWAYS))) for check in checks
    }
