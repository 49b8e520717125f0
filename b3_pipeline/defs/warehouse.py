"""The warehouse's tables as assets, loaded from the exports, with checks that compare them: the rules are in `warehouse`."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from b3_pipeline.defs.exports import key_of as export_of
from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.tables import OWNERS, column_schema
from b3_pipeline.sessions import ZONE, is_session
from b3_pipeline.settings import LOCAL_ZONE
from b3_pipeline.tables import Table
from b3_pipeline.warehouse.model import SCHEMA, WAREHOUSE_TABLES

PREFIX = SCHEMA
_NEVER_TWICE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]
#: As many partitions are listed in a result.
_LISTED = 50


def key_of(table: Table) -> dg.AssetKey:
    """The asset key of a table of the warehouse: warehouse/b3_adjustments."""
    return dg.AssetKey([PREFIX, table.name])


def warehouse_asset(table: Table) -> Any:
    """The asset of a table: materializing it loads the exports that are new or changed, and the open partition."""

    @dg.asset(
        key=key_of(table),
        deps=[export_of(table)],
        group_name=PREFIX,
        owners=OWNERS,
        kinds={"postgres", "table"},
        description=(
            f"{table.description}, in PostgreSQL: the exports' partitions and the newest one (`b3 warehouse load`). "
            "Running it again changes nothing; a damaged export is not loaded and fails the run."
        ),
        metadata={
            "dagster/column_schema": column_schema(table),
            "dagster/table_name": f"{SCHEMA}.{table.name}",
        },
    )
    def load_table(context: dg.AssetExecutionContext, store: dg.ResourceParam[Store]) -> dg.MaterializeResult:
        # here, for it is no part of what definitions need
        from b3_pipeline.places import exports_of
        from b3_pipeline.services import engines
        from b3_pipeline.warehouse.loaded import standing
        from b3_pipeline.warehouse.loading import SPOOL, Loading, prepare, warehouse

        settings = store.settings
        with engines(settings) as servers, store.database() as quest:
            prepare(servers.postgres_dsn, settings.home, settings.clock)
            exports, spool = exports_of(settings), settings.home / SPOOL
            loading = Loading(servers.postgres_dsn, quest, exports, spool, settings.clock, [table])
            outcomes = []
            for outcome in loading.run():
                outcomes.append(outcome)
                if outcome.action != "unchanged":
                    context.log.info(f"{outcome.partition}: {outcome.action}, {outcome.rows} rows")
            with warehouse(servers.postgres_dsn) as db:
                now = standing(db, table, {})
        metadata = {"dagster/row_count": now.rows, "partitions": now.partitions, **_counted(outcomes)}
        if wrong := [f"{o.partition}: {o.reason}" for o in outcomes if o.action == "damaged"]:
            raise dg.Failure(f"Exports of {table.name} are damaged: {'; '.join(wrong[:10])}", metadata=metadata)
        return dg.MaterializeResult(metadata=metadata)

    return load_table


def _counted(outcomes: Sequence[Any]) -> dict[str, Any]:
    done = [o for o in outcomes if o.action == "loaded"]
    records = [
        dg.TableRecord({"partition": o.partition, "source": o.source, "rows": o.rows, "seconds": round(o.seconds, 3)})
        for o in done[-_LISTED:]
    ]
    columns = [dg.TableColumn("partition"), dg.TableColumn("source"), dg.TableColumn("rows", "int")]
    return {
        "rows_loaded": sum(o.rows for o in done),
        "seconds": round(sum(o.seconds for o in done), 3),
        **{action: sum(o.action == action for o in outcomes) for action in ("loaded", "unchanged", "damaged")},
        "loads": dg.MetadataValue.table(records, dg.TableSchema([*columns, dg.TableColumn("seconds", "float")])),
    }


def warehouse_checks(table: Table) -> dg.AssetChecksDefinition:
    """Whether a table has what the exports have: so many rows in each partition, and the same when they are read back."""
    specs = {
        "rows": "Each partition has as many rows as its export, and no row lies outside of them.",
        "checksums": "Each partition's rows, read back from PostgreSQL, have the checksum of its export.",
    }

    @dg.multi_asset_check(
        name=f"check_{PREFIX}_{table.name}",
        specs=[dg.AssetCheckSpec(name, asset=key_of(table), description=text) for name, text in specs.items()],
        can_subset=True,
    )
    def check_table(context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[Store]) -> Any:
        from b3_pipeline.places import exports_of
        from b3_pipeline.services import engines
        from b3_pipeline.warehouse.exports import manifests
        from b3_pipeline.warehouse.loaded import content_that_differs, rows_that_differ
        from b3_pipeline.warehouse.loading import warehouse

        exported = manifests(exports_of(store.settings), table)
        compare = {"rows": rows_that_differ, "checksums": content_that_differs}
        with engines(store.settings) as servers, warehouse(servers.postgres_dsn) as db:
            for name in sorted(key.name for key in context.selected_asset_check_keys):
                yield _result(table, name, len(exported), compare[name](db, table, exported))

    return check_table


def _result(table: Table, name: str, exports: int, differences: Sequence[Any]) -> dg.AssetCheckResult:
    columns = ("partition", "expected", "found")
    records = [dg.TableRecord({c: getattr(d, c) for c in columns}) for d in differences[:10]]
    told = ", ".join(d.partition for d in differences[:10])
    advice = (
        f"Partitions {told}: `b3 export` and `b3 warehouse load` bring what is new. If that changes nothing, somebody has "
        "changed rows of the warehouse: delete these partitions from warehouse.loads, and load again."
    )
    return dg.AssetCheckResult(
        asset_key=key_of(table),
        check_name=name,
        passed=not differences,
        description=advice if differences else None,
        metadata={
            "exports": exports,
            "different": len(differences),
            "first_offending": dg.MetadataValue.table(records, dg.TableSchema([dg.TableColumn(c) for c in columns])),
        },
    )


_SELECTION = dg.AssetSelection.assets(*map(key_of, WAREHOUSE_TABLES))
warehouse = dg.define_asset_job(
    "warehouse",
    selection=_SELECTION | dg.AssetSelection.checks_for_assets(*map(key_of, WAREHOUSE_TABLES)),
    description="Loads the warehouse from the exports, and compares both (`b3 warehouse load`). Running it again changes nothing.",
)
_today = dg.define_asset_job(
    "warehouse_today",
    selection=_SELECTION.without_checks(),
    description="Brings the newest partitions into the warehouse, and whatever export is new; compares nothing.",
)


@dg.schedule(
    job=_today,
    name="warehouse_today",
    cron_schedule="*/15 8-20 * * *",
    execution_timezone=LOCAL_ZONE,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Keeps the warehouse useful for today: on sessions, every quarter of an hour.",
)
def warehouse_today(
    context: dg.ScheduleEvaluationContext, store: dg.ResourceParam[Store]
) -> dg.RunRequest | dg.SkipReason:
    if store.settings.replay_dir is not None:
        return dg.SkipReason("A recording is replayed: its day is not this one.")
    moment = context.scheduled_execution_time.astimezone(ZONE)
    if not is_session(moment.date()):
        return dg.SkipReason(f"{moment.date()} is no session of B3.")
    for job in (warehouse, _today):
        if context.instance.get_runs_count(dg.RunsFilter(job_name=job.name, statuses=_NEVER_TWICE)):
            return dg.SkipReason(f"A run of {job.name} is under way.")
    return dg.RunRequest(run_key=f"warehouse_today {moment.isoformat()}")


def warehouse_jobs() -> "list[dg.UnresolvedAssetJobDefinition]":
    """The jobs of the warehouse."""
    return [warehouse, _today]


def warehouse_assets() -> list[dg.AssetsDefinition]:
    """Every table of the warehouse as an asset."""
    return [warehouse_asset(table) for table in WAREHOUSE_TABLES]


def all_warehouse_checks() -> list[dg.AssetChecksDefinition]:
    """The checks of every table of the warehouse."""
    return [warehouse_checks(table) for table in WAREHOUSE_TABLES]
