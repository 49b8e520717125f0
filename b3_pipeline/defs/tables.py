"""The tables as assets, made from their contracts: what they hold, where it comes from, what a run loaded."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import dagster as dg

from b3_pipeline.defs.resources import Inputs, Store
from b3_pipeline.defs.sources import KINDS, source_key
from b3_pipeline.loading.folder import load_all, totals
from b3_pipeline.loading.load import Loader, LoadReport
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.tables import DATA_TABLES, TABLES, Column, Table

OWNERS = ["team:market-data"]
LEDGERS = tuple(t for t in TABLES.values() if not t.is_data)


def column_schema(table: Table) -> dg.TableSchema:
    """A table's contract as Dagster shows it on the asset's page."""
    return dg.TableSchema([_column(table, c) for c in table.columns])


def _column(table: Table, column: Column) -> dg.TableColumn:
    bounds = [f"{which}: {r}" for which, r in column.hard_by.items()] or ([str(column.hard)] if column.hard else [])
    key = ["key"] if column.name in table.keys else []
    constraints = dg.TableColumnConstraints(nullable=not key, other=[*key, *bounds])
    return dg.TableColumn(column.name, column.type, column.description, constraints)


def _definition(table: Table, group: str) -> dict:
    keys = ", ".join(table.keys)
    return {
        "name": table.name,
        "group_name": group,
        "owners": OWNERS,
        "kinds": {"questdb", "table"},
        "tags": {"b3/partition_by": table.partition_by.lower()},
        "description": f"{table.description}.\n\nOne row for each ({keys}); QuestDB partitions by {table.partition_by}.",
        "metadata": {
            "dagster/column_schema": column_schema(table),
            "dagster/table_name": f"questdb.{table.name}",
            "retention": f"{table.retention_days} days, off" if table.retention_days else "kept for ever",
        },
    }


def data_asset(table: Table) -> Any:
    """The asset of a table that loads fill: materializing it loads every payload that feeds it."""
    sources = [source_key(kind) for kind in KINDS if table.name in kind.tables]

    @dg.asset(**_definition(table, "market"), deps=sources)
    def load_table(
        context: dg.AssetExecutionContext, config: Inputs, store: dg.ResourceParam[Store]
    ) -> dg.MaterializeResult:
        kinds = [kind for kind in KINDS if table.name in kind.tables]
        payloads = [p for found in store.files(config, context.run.run_id, kinds) if (p := found.loadable)]
        with store.loader(context.run.run_id) as loader:
            reports = load_all(loader, payloads, table)
            store.account.reports += reports
            if failed := [f"{r.payload.name}: {r.reason}" for r in reports if r.outcome == "failed"]:
                raise dg.Failure("; ".join(failed), metadata=_loaded(loader, table, reports))
            return dg.MaterializeResult(metadata=_loaded(loader, table, reports))

    return load_table


def ledger_asset(table: Table) -> Any:
    """The asset of a ledger: every load writes it on its way, so materializing it only says what it holds by now."""

    @dg.asset(**_definition(table, "ledgers"), deps=[t.name for t in DATA_TABLES])
    def describe_ledger(context: dg.AssetExecutionContext, store: dg.ResourceParam[Store]) -> dg.MaterializeResult:
        with store.loader(context.run.run_id) as loader:
            mine = "select count() from {t} t join (select load_id from b3_loads where run_id = %s) l on load_id"
            count = loader.db.scalar(named(mine, t=table.name), context.run.run_id)
            return dg.MaterializeResult(metadata={**_rows(loader.db, table), "rows_of_this_run": count})

    return describe_ledger


def _rows(db: QuestDB, table: Table) -> dict:
    rows, newest = db.query(named("select count(), max(ts) from {t}", t=table.name))[0]
    metadata = {"dagster/row_count": rows}
    return metadata if newest is None else {**metadata, "newest": dg.MetadataValue.text(f"{newest.isoformat()}Z")}


def _loaded(loader: Loader, table: Table, reports: Sequence[LoadReport]) -> dict:
    seconds = sum(r.load.seconds for r in reports if r.load and r.outcome == "loaded")
    counts = totals(reports)
    return {
        **_rows(loader.db, table),
        **counts,
        "seconds": seconds,
        "records_per_second": round(counts["candidates"] / seconds) if seconds else 0,
        "loads": _load_table(reports),
        "see_loads": dg.MetadataValue.url(_console(loader.db, table, [r.load.load_id for r in reports if r.load])),
    }


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
    return [*map(data_asset, DATA_TABLES), *map(ledger_asset, LEDGERS)]
