"""The tables as assets, made from their contracts: what they hold, where it comes from, what a run loaded."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import dagster as dg

from b3_pipeline.defs.partitions import BACKFILL, SESSIONS, keys_of, window_of
from b3_pipeline.defs.resources import Inputs, Store
from b3_pipeline.defs.sources import KINDS, source_key
from b3_pipeline.loading.census import Count, by_session, census
from b3_pipeline.loading.folder import load_all, totals
from b3_pipeline.loading.load import Loader, LoadReport
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.tables import LEDGERS, MARKET_TABLES, TABLES, TP_TABLES, Column, Table

OWNERS = ["team:market-data"]
#: What writes much into QuestDB takes a place in this pool; see `dagster.yaml` for how many it has.
POOL = "questdb"
TOMBSTONES = TABLES["tp_capital_signals_deleted"]
#: The assets that load nothing, and so take no config.
DESCRIBED = {table.name for table in (*LEDGERS, TOMBSTONES)}


def column_schema(table: Table) -> dg.TableSchema:
    """A table's contract as Dagster shows it on the asset's page."""
    return dg.TableSchema([_column(table, c) for c in table.columns])


def _column(table: Table, column: Column) -> dg.TableColumn:
    key = ["key"] if column.name in table.keys else []
    bounds = [f"{kind} bounds {b}" for kind, b in (("hard", column.hard), ("soft", column.soft)) if b]
    constraints = dg.TableColumnConstraints(nullable=not key, other=[*key, *bounds])
    return dg.TableColumn(column.name, column.type, column.description, constraints)


def _definition(table: Table) -> dict:
    keys = ", ".join(table.keys)
    group = "market" if table.has_feed else "ledgers" if table in LEDGERS else "tp_capital"
    return {
        "name": table.name,
        "group_name": group,
        "owners": OWNERS,
        "kinds": {"questdb", "table"},
        "tags": {"b3/partition_by": table.partition_by.lower(), "b3/domain": group},
        "description": f"{table.description}.\n\nOne row for each ({keys}); QuestDB partitions by {table.partition_by}.",
        "metadata": {
            "dagster/column_schema": column_schema(table),
            "dagster/table_name": f"questdb.{table.name}",
            "retention": f"{table.retention_days} days, off" if table.retention_days else "kept for ever",
        },
    }


def data_asset(table: Table) -> Any:
    """The asset of a table that loads fill: materializing it loads every payload that feeds it.

    A market table is partitioned by session: a run over some sessions writes their records only, and reports each
    session; one without partitions writes everything and reports the sessions that it changed.
    """
    kinds = [kind for kind in KINDS if table.name in kind.tables]
    by_session = {"partitions_def": SESSIONS, "backfill_policy": BACKFILL} if table.has_feed else {}

    @dg.asset(**_definition(table), deps=[source_key(kind) for kind in kinds], pool=POOL, **by_session)
    def load_table(
        context: dg.AssetExecutionContext, config: Inputs, store: dg.ResourceParam[Store]
    ) -> dg.MaterializeResult:
        payloads = [p for found in store.files(config, context.run.run_id, kinds) if (p := found.loadable)]
        keys = keys_of(context)
        progress = _Percent(context.log, sum(p.size for p in payloads))
        with store.loader(context.run.run_id, window_of(keys), progress) as loader:
            reports = load_all(loader, payloads, table)
            store.account.reports += reports
            loaded = _loaded(loader, table, reports)
            if failed := [f"{r.payload.name}: {r.reason}" for r in reports if r.outcome == "failed"]:
                raise dg.Failure("; ".join(failed), metadata={**loaded, **_loads(loader.db, table, reports)})
            sessions = _sessions(loader, table, reports, keys)
            if keys:
                for key in keys:
                    context.add_asset_metadata(sessions.get(key, {"dagster/partition_row_count": 0}), partition_key=key)
                return dg.MaterializeResult(metadata=loaded)
            for key, metadata in sessions.items():
                context.log_event(dg.AssetMaterialization(context.asset_key, partition=key, metadata=metadata))
            return dg.MaterializeResult(metadata={**loaded, **_loads(loader.db, table, reports)})

    return load_table


def described_asset(table: Table, written_with: Sequence[Table]) -> Any:
    """The asset of a table that others write on their way: materializing it only says what it holds by now."""
    # It has no partitions. That it needs all of the tables' would be listed anew for each table: seconds a run.
    newest = dg.LastPartitionMapping()
    deps = [dg.AssetDep(t.name, partition_mapping=newest if t.has_feed else None) for t in written_with]

    @dg.asset(**_definition(table), deps=deps)
    def describe_table(context: dg.AssetExecutionContext, store: dg.ResourceParam[Store]) -> dg.MaterializeResult:
        with store.loader(context.run.run_id) as loader:
            return dg.MaterializeResult(metadata=_rows(loader.db, table))

    return describe_table


class _Percent:
    """Says in a run's log how much of the payloads is read, at each tenth."""

    def __init__(self, log: dg.DagsterLogManager, size: int) -> None:
        self.log, self.size, self.done = log, size, 0

    def __call__(self, done: int) -> None:
        before, self.done = self.done, self.done + done
        if self.size and self.done * 10 // self.size > before * 10 // self.size:
            self.log.info(f"{self.done * 100 // self.size} % of {self.size:,} bytes read")


def _rows(db: QuestDB, table: Table) -> dict:
    rows, newest = db.query(named("select count(), max({ts}) from {t}", t=table.name, ts=table.timestamp))[0]
    metadata = {"dagster/row_count": rows}
    return metadata if newest is None else {**metadata, "newest": dg.MetadataValue.text(f"{newest.isoformat()}Z")}


def _loaded(loader: Loader, table: Table, reports: Sequence[LoadReport]) -> dict:
    seconds = sum(r.load.seconds for r in reports if r.load and r.outcome in ("loaded", "partial"))
    counts = totals(reports)
    speed = {"seconds": seconds, "records_per_second": round(counts["candidates"] / seconds)} if seconds else {}
    return {**_rows(loader.db, table), **counts, **speed}


def _sessions(loader: Loader, table: Table, reports: Sequence[LoadReport], keys: Sequence[str]) -> dict[str, dict]:
    """What is reported of each session that has rows: of those that were asked for, else of those that changed."""
    mine = {r.load.load_id for r in reports if r.load and r.outcome in ("loaded", "partial")}
    if not table.has_feed or not (keys or mine):
        return {}
    files = loader.ledger.files(table.name)
    counted = {s.isoformat(): counts for s, counts in by_session(census(loader.db, table, window_of(keys))).items()}
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


def _loads(db: QuestDB, table: Table, reports: Sequence[LoadReport]) -> dict:
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


def table_assets() -> list[dg.AssetsDefinition]:
    """Every table as an asset."""
    loaded = (*MARKET_TABLES, *TP_TABLES)
    return [
        *map(data_asset, loaded),
        *(described_asset(table, MARKET_TABLES) for table in LEDGERS),
        described_asset(TOMBSTONES, [TABLES["tp_capital_signals"]]),
    ]
