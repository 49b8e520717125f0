"""The tables as assets, made from their contracts: what they hold, where it comes from, what a run loaded."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from b3_pipeline.defs.partitions import BACKFILL, SESSIONS, keys_of, window_of
from b3_pipeline.defs.reported import counts_of, loads_of, rows_of, sessions_of_loads
from b3_pipeline.defs.resources import Inputs, Store
from b3_pipeline.defs.sources import KINDS, source_key
from b3_pipeline.loading.folder import load_all
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
            "retention": _retention(table),
        },
    }


def _retention(table: Table) -> str:
    """The limit, and whether it is kept unless somebody says otherwise (`b3 retention rules`)."""
    if table.retention_days is None:
        return "kept for ever"
    return f"{table.retention_days} days, {'on' if table.expires else 'off until an operator turns it on'}"


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
            loaded = counts_of(loader, table, reports)
            if failed := [f"{r.payload.name}: {r.reason}" for r in reports if r.outcome == "failed"]:
                raise dg.Failure("; ".join(failed), metadata={**loaded, **loads_of(loader.db, table, reports)})
            changed = [r for r in reports if r.outcome in ("loaded", "partial")]
            sessions = sessions_of_loads(loader, table, changed, keys)
            if keys:
                for key in keys:
                    context.add_asset_metadata(sessions.get(key, {"dagster/partition_row_count": 0}), partition_key=key)
                return dg.MaterializeResult(metadata=loaded)
            for key, metadata in sessions.items():
                context.log_event(dg.AssetMaterialization(context.asset_key, partition=key, metadata=metadata))
            return dg.MaterializeResult(metadata={**loaded, **loads_of(loader.db, table, reports)})

    return load_table


def described_asset(table: Table, written_with: Sequence[Table]) -> Any:
    """The asset of a table that others write on their way: materializing it only says what it holds by now."""
    # It has no partitions. That it needs all of the tables' would be listed anew for each table: seconds a run.
    newest = dg.LastPartitionMapping()
    deps = [dg.AssetDep(t.name, partition_mapping=newest if t.has_feed else None) for t in written_with]

    @dg.asset(**_definition(table), deps=deps)
    def describe_table(context: dg.AssetExecutionContext, store: dg.ResourceParam[Store]) -> dg.MaterializeResult:
        with store.loader(context.run.run_id) as loader:
            return dg.MaterializeResult(metadata=rows_of(loader.db, table))

    return describe_table


class _Percent:
    """Says in a run's log how much of the payloads is read, at each tenth."""

    def __init__(self, log: dg.DagsterLogManager, size: int) -> None:
        self.log, self.size, self.done = log, size, 0

    def __call__(self, done: int) -> None:
        before, self.done = self.done, self.done + done
        if self.size and self.done * 10 // self.size > before * 10 // self.size:
            self.log.info(f"{self.done * 100 // self.size} % of {self.size:,} bytes read")


def table_assets() -> list[dg.AssetsDefinition]:
    """Every table as an asset."""
    loaded = (*MARKET_TABLES, *TP_TABLES)
    return [
        *map(data_asset, loaded),
        *(described_asset(table, MARKET_TABLES) for table in LEDGERS),
        described_asset(TOMBSTONES, [TABLES["tp_capital_signals"]]),
    ]
