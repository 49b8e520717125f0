"""The one place where all that is Dagster is wired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from b3_pipeline.defs.backups import backup, backups, restores, verify_backup
from b3_pipeline.defs.checks import all_checks
from b3_pipeline.defs.exports import export_assets, export_checks, exports, verify_exports
from b3_pipeline.defs.jobs import jobs
from b3_pipeline.defs.lowdb import lowdb, lowdb_assets, lowdb_checks
from b3_pipeline.defs.parity import parity
from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.retention import retention
from b3_pipeline.defs.schedules import schedules
from b3_pipeline.defs.sensors import sensors
from b3_pipeline.defs.sources import source_assets
from b3_pipeline.defs.sweep import gaps
from b3_pipeline.defs.tables import table_assets
from b3_pipeline.defs.warehouse import all_warehouse_checks, warehouse_assets, warehouse_jobs


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """The definitions; a test or a command gives resources of its own."""
    return dg.Definitions(
        assets=[*source_assets(), *table_assets(), *export_assets(), *warehouse_assets(), *lowdb_assets(), backups],
        asset_checks=[*all_checks(), *all_warehouse_checks(), *export_checks(), *lowdb_checks(), restores],
        jobs=[
            *jobs(),
            *warehouse_jobs(),
            lowdb,
            exports,
            verify_exports,
            retention,
            parity,
            gaps,
            backup,
            verify_backup,
        ],
        schedules=schedules(),
        sensors=sensors(),
        resources={"store": Store(), **(resource_overrides or {})},
        executor=dg.in_process_executor,  # a process a step would cost seconds each
    )


defs = build_defs()
