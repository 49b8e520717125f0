"""What Dagster is told of loads: counts, the sessions that changed, and a table of the loads themselves."""

from collections.abc import Sequence
from urllib.parse import quote

import dagster as dg

from b3_pipeline.defs.partitions import SESSIONS, window_of
from b3_pipeline.loading.census import Count, by_session, census, days_of_loads
from b3_pipeline.loading.folder import totals
from b3_pipeline.loading.load import Loader, LoadReport
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.tables import Table


def rows_of(db: QuestDB, table: Table) -> dict:
    rows, newest = db.query(named("select count(), max({ts}) from {t}", t=table.name, ts=table.timestamp))[0]
    metadata = {"dagster/row_count": rows}
    return metadata if newest is None else {**metadata, "newest": dg.MetadataValue.text(f"{newest.isoformat()}Z")}


def counts_of(loader: Loader, table: Table, reports: Sequence[LoadReport]) -> dict:
    seconds = sum(r.load.seconds for r in reports if r.load and r.outcome in ("loaded", "partial"))
    counts = totals(reports)
    speed = {"seconds": seconds, "records_per_second": round(counts["candidates"] / seconds)} if seconds else {}
    return {**rows_of(loader.db, table), **counts, **speed}


def sessions_of_loads(
    loader: Loader, table: Table, reports: Sequence[LoadReport], keys: Sequence[str] = ()
) -> dict[str, dict]:
    """What is reported of each session that has rows: of those that were asked for, else of those with rows of a report."""
    mine = {r.load.load_id for r in reports if r.load}
    if not table.has_feed or not (keys or mine):
        return {}
    within = window_of(keys) if keys else days_of_loads(loader.db, table, mine)
    counts = census(loader.db, table, within) if within else []
    files = loader.ledger.files(table.name, min((count.load_id for count in counts), default=0))
    counted = {s.isoformat(): of_session for s, of_session in by_session(counts).items()}
    first, last = (
        (keys[0], keys[-1]) if keys else (SESSIONS.get_first_partition_key(), SESSIONS.get_last_partition_key())
    )
    return {
        session: _session(counts, files)
        for session, counts in counted.items()
        if str(first) <= session <= str(last) and (keys or mine & {c.load_id for c in counts})
    }


def _session(counts: Sequence[Count], files: dict[int, str]) -> dict:
    records = [
        dg.TableRecord({"file": files.get(c.load_id, "?"), "feed": c.feed, "load_id": c.load_id, "rows": c.rows})
        for c in counts
    ]
    columns = [dg.TableColumn(c, "float" if c in ("load_id", "rows") else "string") for c in records[0].data]
    return {
        "dagster/partition_row_count": sum(c.rows for c in counts),
        "newest": dg.MetadataValue.text(f"{max(c.newest for c in counts).isoformat()}Z"),
        "loads": dg.MetadataValue.table(records, dg.TableSchema(columns)),
    }


def loads_of(db: QuestDB, table: Table, reports: Sequence[LoadReport]) -> dict:
    """Each payload with its counts, and where to read more."""
    ids = [r.load.load_id for r in reports if r.load]
    return {"loads": _load_table(reports), "see_loads": dg.MetadataValue.url(_console(db, table, ids))}


def _load_table(reports: Sequence[LoadReport]) -> dg.TableMetadataValue:
    shown = ("load_id", "file", "feed", *totals([]), "seconds")
    records = [
        dg.TableRecord({**{c: getattr(r.load, c) for c in shown}, "outcome": r.outcome, "reason": r.reason or ""})
        for r in reports
        if r.load
    ]
    text = {"file", "feed", "outcome", "reason"}
    columns = [dg.TableColumn(c, "string" if c in text else "float") for c in (*shown, "outcome", "reason")]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


def _console(db: QuestDB, table: Table, load_ids: Sequence[int]) -> str:
    """The address of QuestDB's own console with the query for these loads."""
    ids = ", ".join(map(str, load_ids)) or "0"
    query = f"SELECT * FROM b3_loads WHERE table_name = '{table.name}' AND load_id IN ({ids})"  # noqa: S608 (shown, not run)
    return f"{db.address.http_url}/?query={quote(query)}&executeQuery=true"
