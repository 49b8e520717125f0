"""Rejects that wait for somebody: files whose newest load put records, or all of it, into quarantine."""

from __future__ import annotations

from b3_pipeline.quality.finding import Context, Finding, verdict
from b3_pipeline.questdb.client import named
from b3_pipeline.sessions import Window
from b3_pipeline.tables import Table

_NEWEST = named(
    "select l.feed, l.file, l.ts, l.load_id, l.candidates, l.rejected, l.outcome from b3_loads l join "
    "(select max(load_id) load_id from b3_loads where table_name = %s and outcome != 'started' "
    "and ts >= %s and ts < %s group by feed, file) n on load_id "
    "where l.table_name = %s and (l.rejected > 0 or l.outcome = 'rejected') order by l.load_id desc"
)


def rejects(table: Table, context: Context, within: Window) -> Finding:
    """Which files of the loads that began within a window ended, by their newest load, with something in quarantine."""
    found = context.db.query(_NEWEST, table.name, *within.bounds(), table.name)
    names = ("feed", "file", "loaded_at", "load_id", "candidates", "rejected", "outcome")
    rows = [dict(zip(names, row, strict=True)) for row in found]
    numbers = {
        "files": len(rows),
        "records": sum(row["rejected"] for row in rows),
        "files_rejected_whole": sum(row["outcome"] == "rejected" for row in rows),
    }
    return verdict(
        len(rows),
        numbers,
        ({"partition": "", **row, "loaded_at": f"{row['loaded_at'].isoformat()}Z"} for row in rows),
        "`b3 quarantine list` shows each record with its reason. Have the source corrected: its next payload clears this. Or "
        "correct and replay the record: `b3 quarantine export`, then `b3 quarantine replay`.",
    )
