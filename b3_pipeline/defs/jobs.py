"""The jobs that people launch: the historical migration, and one settlement report by hand."""

from __future__ import annotations

import dagster as dg

from b3_pipeline.defs.tables import LEDGERS
from b3_pipeline.parsing.kinds import REPORT
from b3_pipeline.tables import DATA_TABLES

_LEDGERS = [t.name for t in LEDGERS]

migrate = dg.define_asset_job(
    "migrate",
    selection=dg.AssetSelection.assets(*(t.name for t in DATA_TABLES), *_LEDGERS),
    description="Loads a legacy folder into every table (`b3 migrate`). Running it again changes nothing.",
)
settlements = dg.define_asset_job(
    "settlements",
    selection=dg.AssetSelection.assets(*REPORT.tables, *_LEDGERS),
    description="Loads B3's settlement reports, BVBG.187 (`b3 settlements`).",
)


def jobs() -> list[dg.UnresolvedAssetJobDefinition]:
    """Every job."""
    return [migrate, settlements]
