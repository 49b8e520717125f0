"""The job that takes old partitions away once they are safely elsewhere: the rules are in `warehouse.retention`."""

import dagster as dg

from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.tables import POOL
from b3_pipeline.home import require_disk
from b3_pipeline.warehouse.exporting import Item
from b3_pipeline.warehouse.retention import retention_of
from b3_pipeline.warehouse.retention_log import open_retention_log

#: Items that a result lists.
_LISTED = 50


@dg.op(pool=POOL)
def take_away(context: dg.OpExecutionContext, store: dg.ResourceParam[Store]) -> None:
    """Exports, verifies and drops what is beyond its limit; says of each partition what came of it.

    It fails when an export is damaged, so that it is run again and people are told. That partition stays.
    """
    dsn = store.postgres_dsn
    if dsn is None:
        raise dg.Failure("PostgreSQL is not up: what retention may do is kept there. `b3 up` starts it.")
    require_disk(store.settings)
    items: list[Item] = []
    with store.database() as db, open_retention_log(dsn) as log:
        for item in retention_of(store.settings, db, dsn, log, "job retention").run():
            items.append(item)
            context.log.info(f"{item.table} {item.name}: {item.action}, {item.rows} rows. {item.why}")
    dropped = [item for item in items if item.action == "dropped"]
    metadata = {
        "dropped": len(dropped),
        "rows": sum(item.rows for item in dropped),
        "bytes": sum(item.bytes for item in dropped),
        "sha256": {f"{item.table} {item.name}": item.sha256 for item in dropped[:_LISTED]},
        "kept": [f"{item.table} {item.name}: {item.why}" for item in items if item.action == "kept"][:_LISTED],
    }
    if damaged := [f"{item.table} {item.name}: {item.why}" for item in items if item.action == "damaged"]:
        raise dg.Failure(f"Exports are damaged: {'; '.join(damaged[:10])}", metadata=metadata)
    context.add_output_metadata(metadata)


@dg.job(
    description=(
        "Drops partitions that lie beyond their table's limit, when their export was verified and the warehouse has loaded "
        "it (`b3 retention`)."
    ),
    executor_def=dg.in_process_executor,
)
def retention() -> None:
    take_away()
