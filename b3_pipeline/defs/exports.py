"""The exports as assets, one a table, each with the check that what was exported can be read back: see `warehouse.exports`."""

from collections import Counter
from dataclasses import replace
from typing import Any

import dagster as dg

from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.tables import OWNERS, POOL, column_schema
from b3_pipeline.places import exports_of
from b3_pipeline.settings import LOCAL_ZONE
from b3_pipeline.tables import TABLES, Table
from b3_pipeline.warehouse import retention_log
from b3_pipeline.warehouse.exporting import Exporting, Item
from b3_pipeline.warehouse.exports import changed, manifest_of, verify

PREFIX = "exports"
_CHECK, _ALL_SOUND = "verified", "all_sound"
#: Items that a result lists, with their hashes.
_LISTED = 50


def key_of(table: Table) -> dg.AssetKey:
    """The asset key of a table's export: exports/b3_adjustments."""
    return dg.AssetKey([PREFIX, table.name])


def export_asset(table: Table) -> Any:
    """The export of a table: materializing it writes the closed partitions that are new or have changed."""
    # Not of each of the table's sessions, which would be listed anew for each: seconds a run.
    newest = dg.LastPartitionMapping() if table.has_feed else None
    says = "Every file that the run wrote was read back: its SHA-256, its rows and their checksum are the table's."

    @dg.asset(
        key=key_of(table),
        deps=[dg.AssetDep(table.name, partition_mapping=newest)],
        group_name=PREFIX,
        owners=OWNERS,
        kinds={"parquet"},
        pool=POOL,
        check_specs=[dg.AssetCheckSpec(_CHECK, asset=key_of(table), description=says)],
        description=(
            f"{table.description}, as Parquet files by day that DuckDB, pandas and Spark read (`b3 export`). "
            "The newest partition is still open. Running it again changes nothing."
        ),
        metadata={"dagster/column_schema": column_schema(table)},
    )
    def export_table(context: dg.AssetExecutionContext, store: dg.ResourceParam[Store]) -> dg.MaterializeResult:
        with store.database() as db:
            settings = store.settings
            taken = retention_log.known(store.postgres_dsn, settings.home)
            place = exports_of(settings)
            exporting = Exporting(db, settings.home, place, settings.clock, taken, announce=context.log.info)
            items = list(exporting.run([table]))
            written = [item for item in items if item.action == "exported"]
            wrong = [item for each in written if (item := _wrong(exporting, table, each))]
        result = _checked(wrong, len(written))
        return dg.MaterializeResult(metadata={"place": place.url, **_told(items)}, check_results=[result])

    return export_table


def export_check(table: Table) -> dg.AssetChecksDefinition:
    """Whether every export of a table is still there and whole, also of what a retention has dropped since."""

    @dg.asset_check(
        asset=key_of(table),
        name=_ALL_SOUND,
        description="Every export, also of partitions that were dropped, is read back: its SHA-256, rows and checksum.",
    )
    def all_sound(store: dg.ResourceParam[Store]) -> dg.AssetCheckResult:
        settings, counts = store.settings, Counter[str]()
        taken = retention_log.known(store.postgres_dsn, settings.home)
        wrong = list[Item]()
        with store.database() as db:
            exporting = Exporting(db, settings.home, exports_of(settings), settings.clock, taken)
            for item in exporting.verified([table]):
                counts[item.action] += 1
                wrong += [item] if item.action in ("damaged", "lost") else []
        return dg.AssetCheckResult(
            passed=not wrong,
            metadata={**counts, "wrong": [f"{i.name}: {i.action}. {i.why}" for i in wrong][:_LISTED]},
            description=f"{table.name} {wrong[0].name}: {wrong[0].why}" if wrong else "",
        )

    return all_sound


def _wrong(exporting: Exporting, table: Table, written: Item) -> Item | None:
    """A partition that was exported as it is now, where what can be read back is not the table's; None where it is."""
    manifest = manifest_of(exporting.place, table, written.name)
    if manifest is None:
        return replace(written, action="damaged", why="Its manifest cannot be read.")
    if problems := verify(exporting.place, manifest):
        return replace(written, action="damaged", why=" ".join(problems))
    if problems := changed(exporting.db, manifest):
        return replace(written, action="changed", why=" ".join(problems))
    return None


def _checked(wrong: list[Item], looked_at: int) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=_CHECK,
        passed=not wrong,
        metadata={"looked_at": looked_at, "wrong": [f"{i.name}: {i.action}. {i.why}" for i in wrong][:_LISTED]},
        description=f"{wrong[0].table} {wrong[0].name}: {wrong[0].why} `b3 export --again` writes it anew."
        if wrong
        else "",
    )


def _told(items: list[Item]) -> dict[str, Any]:
    """What a run says: how much there is, and of what it wrote each partition's hash."""
    written = [item for item in items if item.action == "exported"]
    return {
        "dagster/row_count": sum(item.rows for item in items),
        "partitions": len(items),
        "bytes": sum(item.bytes for item in items),
        "exported": len(written),
        "exported_rows": sum(item.rows for item in written),
        "left": [f"{item.name}: {item.why}" for item in items if item.action == "left"][:_LISTED],
        "sha256": {item.name: item.sha256 for item in written[-_LISTED:]},
    }


def export_assets() -> list[dg.AssetsDefinition]:
    """The export of every table."""
    return [export_asset(table) for table in TABLES.values()]


def export_checks() -> list[dg.AssetChecksDefinition]:
    """The weekly check of every table's exports."""
    return [export_check(table) for table in TABLES.values()]


_KEYS = [key_of(table) for table in TABLES.values()]
_SELECTION = dg.AssetSelection.assets(*_KEYS)
exports = dg.define_asset_job(
    "exports",
    # Not the check of all that was ever exported: that has a job of its own, once a week.
    selection=_SELECTION.without_checks() | dg.AssetSelection.checks(*(dg.AssetCheckKey(k, _CHECK) for k in _KEYS)),
    description="Exports every closed partition that is new or has changed, and reads back what it wrote (`b3 export`).",
)
verify_exports = dg.define_asset_job(
    "verify_exports",
    selection=dg.AssetSelection.checks(*(dg.AssetCheckKey(k, _ALL_SOUND) for k in _KEYS)),
    description="Reads back every export, also of what a retention has dropped (`b3 export --verify`).",
)
verify_exports_weekly = dg.ScheduleDefinition(
    name="verify_exports_weekly",
    job=verify_exports,
    cron_schedule="30 6 * * 6",
    execution_timezone=LOCAL_ZONE,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Looks each Saturday whether all exports are still there and whole: of dropped partitions they are all there is.",
)
