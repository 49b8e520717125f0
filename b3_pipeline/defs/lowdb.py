"""The tables of the LowDB files as assets, loaded by one step, with checks that compare them: the rules are in `lowdb`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from b3_pipeline.defs.resources import Inputs, Store
from b3_pipeline.defs.tables import OWNERS
from b3_pipeline.errors import UsageError
from b3_pipeline.lowdb.model import COLLECTIONS, SCHEMA, Collection

PREFIX = "lowdb"


def key_of(collection: Collection) -> dg.AssetKey:
    """The asset key of a collection's table: lowdb/ideas."""
    return dg.AssetKey([PREFIX, collection.table])


def _spec(collection: Collection) -> dg.AssetSpec:
    columns = [dg.TableColumn(field.column, str(field.kind)) for field in collection.fields]
    refers = [key_of(other) for other in COLLECTIONS for f in collection.fields if f.refers_to == other.table]
    what = f"{collection.what[:1].upper()}{collection.what[1:]}: `{collection.member}` of `{collection.file}`"
    return dg.AssetSpec(
        key_of(collection),
        deps=refers,
        description=f"{what}, in PostgreSQL (`b3 lowdb migrate`). Running it again changes nothing.",
        group_name=PREFIX,
        owners=OWNERS,
        kinds={"postgres", "table"},
        metadata={
            "dagster/column_schema": dg.TableSchema(columns),
            "dagster/table_name": f"{SCHEMA}.{collection.table}",
        },
    )


def folder_of(config: Inputs, store: Store) -> Path:
    """The folder of a run, or the home's. Raises UsageError where there is none."""
    folder = Path(config.lowdb_dir) if config.lowdb_dir else store.settings.lowdb_dir
    if folder is None:
        raise UsageError("Which folder? Set B3_LOWDB_DIR, or give lowdb_dir in the run's config.")
    return folder


def lowdb_assets() -> list[Any]:
    """Every table of the LowDB files, loaded by one step: their backups and their log are those of one migration."""

    @dg.multi_asset(name="load_lowdb", specs=[_spec(collection) for collection in COLLECTIONS])
    def load_lowdb(
        context: dg.AssetExecutionContext, config: Inputs, store: dg.ResourceParam[Store]
    ) -> Iterator[dg.MaterializeResult]:
        # here, for it is no part of what definitions need
        from b3_pipeline.lowdb.migrating import Migrating
        from b3_pipeline.postgres.flags import Flags
        from b3_pipeline.services import engines

        settings, folder = store.settings, folder_of(config, store)
        with engines(settings) as servers:
            migrating = Migrating(
                servers.postgres_dsn,
                settings.home,
                settings.clock,
                Flags(settings.home, servers.postgres_dsn).current,
                context.run.run_id,
                store.progress,
                settings.lowdb_dir,
                config.again,
            )
            done = store.ideas = migrating.run(folder)
        for outcome in done.outcomes:
            context.log.info(f"{outcome.file}: {outcome.outcome} {outcome.reason or ''}")
        counts = {each.table: {**each.counts, **each.changes} for o in done.outcomes for each in o.tables}
        backup = {} if done.folder is None else {"backup": dg.MetadataValue.path(str(done.folder))}
        if wrong := [f"{o.file}: {o.reason}" for o in done.outcomes if o.outcome in ("rejected", "failed")]:
            raise dg.Failure("; ".join(wrong), metadata={"counts": dg.MetadataValue.json(counts), **backup})
        for collection in COLLECTIONS:
            yield dg.MaterializeResult(key_of(collection), metadata={**counts.get(collection.table, {}), **backup})

    return [load_lowdb]


def lowdb_checks() -> list[dg.AssetChecksDefinition]:
    """Whether each table has so many rows as its file has records, and says the same."""
    texts = {
        "rows": "The table has as many rows as the LowDB file has records that may be.",
        "parity": "Each row says what its record in the LowDB file says, and no row is one that the file has not.",
    }
    checks = [(name, collection) for collection in COLLECTIONS for name in texts]

    @dg.multi_asset_check(
        name="check_lowdb",
        specs=[dg.AssetCheckSpec(name, asset=key_of(c), description=texts[name]) for name, c in checks],
    )
    def check_lowdb(config: Inputs, store: dg.ResourceParam[Store]) -> Iterator[dg.AssetCheckResult]:
        from b3_pipeline.lowdb.parity import compare
        from b3_pipeline.services import engines

        with engines(store.settings) as servers:
            found = compare(servers.postgres_dsn, folder_of(config, store))
        for name, collection in checks:
            yield _checked(name, collection, found.get(collection.table))

    return [check_lowdb]


def _checked(name: str, collection: Collection, parity: Any) -> dg.AssetCheckResult:
    common = {"asset_key": key_of(collection), "check_name": name}
    if parity is None:
        told, severity = f"{collection.file} is not in the folder.", dg.AssetCheckSeverity.WARN
        return dg.AssetCheckResult(**common, passed=False, severity=severity, description=told)
    passed = parity.ok if name == "parity" else parity.missing == parity.extra
    return dg.AssetCheckResult(
        **common,
        passed=passed,
        description=None if passed else "`b3 lowdb parity` names the records, `b3 lowdb migrate --again` loads them.",
        metadata={**parity.numbers(), "first_offending": dg.MetadataValue.json(parity.first)},
    )


lowdb = dg.define_asset_job(
    "lowdb",
    selection=dg.AssetSelection.assets(*map(key_of, COLLECTIONS)),
    description="Loads the LowDB files into PostgreSQL and compares both (`b3 lowdb migrate`). Running it again changes nothing.",
)
