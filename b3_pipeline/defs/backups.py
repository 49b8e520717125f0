"""Backups as an asset, and whether the newest can be restored as its check: the rules are in `backup`."""

from collections.abc import Callable

import dagster as dg

from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.tables import OWNERS, POOL
from b3_pipeline.progress import Report


class Told(Report):
    """Tells a run's log what goes on."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def __call__(self, message: str) -> None:
        self._tell(message)


@dg.asset(
    name="backups",
    group_name="safety",
    owners=OWNERS,
    kinds={"parquet", "postgres", "questdb"},
    pool=POOL,
    description=(
        "Backups of QuestDB, PostgreSQL, the archive and the rest of the home (`b3 backup create`). A run makes one, and "
        "takes those away that are not to be kept any longer. Loads wait while the data folder is copied."
    ),
)
def backups(context: dg.AssetExecutionContext, store: dg.ResourceParam[Store]) -> dg.MaterializeResult:
    from b3_pipeline.backup.creating import create  # here, for it is no part of what definitions need
    from b3_pipeline.services import engines

    with engines(store.settings) as servers:
        made = create(store.settings, servers, Told(context.log.info))
    manifest = made.manifest
    metadata = {
        "backup": made.id,
        "dagster/row_count": manifest.rows,
        "bytes": manifest.bytes,
        "sha256": made.sha256,
        "forms": ", ".join(manifest.forms),
        "tables": {name: table.rows for name, table in manifest.tables.items()},
    }
    return dg.MaterializeResult(metadata=metadata)


@dg.asset_check(
    asset="backups",
    name="restores",
    description="The newest backup, restored into servers of its own from each of its forms, is what was backed up.",
)
def restores(context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[Store]) -> dg.AssetCheckResult:
    from b3_pipeline.backup.verifying import verify

    verdict = verify(store.settings, "latest", report=Told(context.log.info))
    return dg.AssetCheckResult(
        passed=verdict.ok,
        metadata={"backup": verdict.backup.id, "forms": ", ".join(verdict.forms), "problems": list(verdict.problems)},
        description=" ".join(verdict.problems[:10]) or f"{verdict.backup.id} can be restored.",
    )


backup = dg.define_asset_job(
    "backup",
    selection=dg.AssetSelection.assets("backups"),
    description="Makes a backup of everything, and proves it by restoring it elsewhere (`b3 backup create --verify`).",
)
verify_backup = dg.define_asset_job(
    "verify_backup",
    selection=dg.AssetSelection.checks_for_assets("backups"),
    description="Proves the newest backup by restoring it elsewhere (`b3 backup verify`).",
)
