"""Checks without a run: what a tick looks at after it has loaded, and what it may say of it."""

from collections.abc import Iterator

import dagster as dg

from b3_pipeline.defs.checks import EVERYTHING, LOOKED_AT, told
from b3_pipeline.defs.resources import Store
from b3_pipeline.loading import archived, kept
from b3_pipeline.quality.checks import Check, Context, checks_of, twice
from b3_pipeline.quality.sources import kinds_of
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import ALWAYS, Window, session_before, session_of, to_local, window
from b3_pipeline.tables import MARKET_TABLES, Table

#: How many sessions a tick looks at, today's included; the nightly validation looks at everything.
RECENT_SESSIONS = 5
_LOOKED_AT = "sessions since "
#: Those about the table as a whole: however far back one looks, they say the same.
_WHOLE = {"wal", "freshness", "composed"}
#: Those that cost milliseconds, and beside them the parity of the feed that was loaded.
_QUICK = {*_WHOLE, "unique_keys", "hard_bounds", "soft_bounds", "rejects", "feeds_agree", "shadow"}


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
    within, red = Window(window(first, first).start), _red_since(instance, checks)

    def context() -> Context:
        files = archived.found(store.archive, _names(table, feed), first)
        return store.context(db, [*kept.kept(store.settings.home), *files])

    at_first = context()
    for check in checks:
        finding = twice(check, at_first, context, within)
        covered = check.name in _WHOLE or red.get(check.name, first.isoformat()) >= first.isoformat()
        if covered or not finding.passed:
            yield dg.AssetCheckEvaluation(**told(check, finding, f"{_LOOKED_AT}{first.isoformat()}"))


def _names(table: Table, feed: str) -> list[str]:
    return [kind.name for kind in kinds_of(table, feed)]


def _red_since(instance: dg.DagsterInstance, checks: list[Check]) -> dict[str, str]:
    """Of the checks whose last result was red, the first session (ISO) that was looked at; "" where it was everything."""
    keys = {dg.AssetCheckKey(dg.AssetKey(c.table.name), c.name): c.name for c in checks}
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(keys))
    found = {}
    for key, record in latest.items():
        evaluation = record.evaluation
        # one that was only planned has no result
        if isinstance(evaluation, dg.AssetCheckEvaluation) and not evaluation.passed:
            looked_at = str(evaluation.metadata[LOOKED_AT].value) if LOOKED_AT in evaluation.metadata else ""
            found[keys[key]] = looked_at.removeprefix(_LOOKED_AT) if looked_at.startswith(_LOOKED_AT) else ""
    return found


def freshness(store: Store, db: QuestDB) -> dict[str, dg.AssetCheckEvaluation]:
    """The evaluation of each market table's freshness, by table."""
    context = store.context(db, [])
    checks = [check for table in MARKET_TABLES for check in checks_of(table) if check.name == "freshness"]
    return {
        check.table.name: dg.AssetCheckEvaluation(**told(check, check.finding(context, ALWAYS), EVERYTHING))
        for check in checks
    }
