"""What stands beside the tables while both systems run: the shadow files, and the comparison of the two captures."""

from __future__ import annotations

from datetime import date, timedelta

from b3_pipeline.quality.finding import SHOWN, Context, Finding, verdict
from b3_pipeline.quality.stored import condition, of_feed
from b3_pipeline.questdb.client import named
from b3_pipeline.sessions import Window, session_of, to_local
from b3_pipeline.shadow.drift import drift
from b3_pipeline.tables import Table

#: A capture is compared within so long, if it is at all.
SOON = timedelta(minutes=15)


def shadow(table: Table, context: Context, within: Window) -> Finding:
    """Whether the shadow files say what the table does, as far as their form can; quiet while they are not written."""
    if context.shadow is None:
        return Finding(passed=True)
    found = drift(context.db, context.shadow, within, [table])
    numbers = {
        name: sum(getattr(one, name) for one in found)
        for name in ("file_keys", "table_keys", "missing", "extra", "different", "beyond")
    }
    rows = [row for one in found for row in one.offending]
    rows += [{"partition": "", "problem": problem} for one in found for problem in one.problems]
    return verdict(
        sum(not one.ok for one in found),
        numbers,
        rows[:SHOWN],
        "Legacy readers of the shadow folder see other values than the tables have. `b3 flags refresh-shadow` writes its files "
        "anew from the tables.",
    )


def composed(table: Table, context: Context, _within: Window) -> Finding:
    """Whether the composed captures of the newest session that has a comparison say what the legacy ones do.

    From phase shadow on that must be the latest session of which a legacy capture is stored: older evidence decides
    nothing.
    """
    compared = list(context.compared())
    latest = _latest_session(table, context) if context.phase != "legacy" else None
    if context.phase != "legacy" and (latest is None or all(c.session < latest for c in compared)):
        return Finding(passed=False, numbers={"compared": 0}, advice=_not_compared(latest), undecided=True)
    newest = [c for c in compared if c.session == max(other.session for other in compared)]
    rows = [
        {
            "partition": c.session.isoformat(),
            "field": d.pointer,
            "problem": d.kind,
            "legacy": str(d.legacy),
            "composed": str(d.composed),
        }
        for c in newest
        for d in c.differences
        if d.kind != "expected"
    ]
    numbers = {"compared": len(newest), "fields": sum(c.fields for c in newest), "different": len(rows)}
    return verdict(
        len(rows),
        numbers,
        rows,
        "The desk cannot do without the legacy collector yet: find out which of the two is right, field by field. The other "
        "feeds' tables have what the composed capture was made of.",
    )


def _latest_session(table: Table, context: Context) -> date | None:
    """The latest session of which a legacy capture has been stored for a while; one that has just come is compared soon."""
    where = condition("endpoint = 'ultimo-dado'") & of_feed("legacy_capture")
    where &= condition("ingested_at <= %s", context.now.replace(tzinfo=None) - SOON)
    found = context.db.query(named("select max(ts) from {t} where ", t=table.name) + where.text, *where.values)
    newest = found[0][0] if found else None  # of a name that it never had, the server gives no row
    return None if newest is None else session_of(to_local(newest).date())


def _not_compared(session: date | None) -> str:
    if session is None:
        return "No legacy capture is stored, so nothing says whether the desk can do without the legacy collector."
    return (
        f"The legacy capture of {session} was compared with no composed one. Is the sensor compose_capture on, and what does "
        "it say (Dagster, Automation)? It composes when settlements, indicators or the surface have been stored."
    )
