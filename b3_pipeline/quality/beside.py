"""What stands beside the tables while both systems run: the shadow files, and the comparison of the two captures."""

from __future__ import annotations

from b3_pipeline.quality.finding import SHOWN, Context, Finding, verdict
from b3_pipeline.sessions import Window
from b3_pipeline.shadow.drift import drift
from b3_pipeline.tables import Table


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


def composed(_table: Table, context: Context, _within: Window) -> Finding:
    """Whether the composed captures of the newest session that has a comparison say what the legacy ones do."""
    compared = list(context.compared())
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
