"""The jobs that people launch: the historical migration, and one settlement report by hand."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from b3_pipeline.defs.sources import source_key
from b3_pipeline.defs.tables import LEDGERS
from b3_pipeline.parsing.kinds import LEGACY_KINDS, REPORT, Kind
from b3_pipeline.tables import DATA_TABLES


def _assets(kinds: Iterable[Kind], tables: Iterable[str]) -> dg.AssetSelection:
    """The sources, then the tables, then the ledgers."""
    return dg.AssetSelection.assets(*map(source_key, kinds), *tables, *(t.name for t in LEDGERS))


migrate = dg.define_asset_job(
    "migrate",
    selection=_assets(LEGACY_KINDS, (t.name for t in DATA_TABLES)),
    description="Loads a legacy folder into every table (`b3 migrate`). Running it again changes nothing.",
)
settlements = dg.define_asset_job(
    "settlements",
    selection=_assets([REPORT], REPORT.tables),
    description="Loads B3's settlement reports, BVBG.187 (`b3 settlements`).",
)


def jobs() -> list[dg.UnresolvedAssetJobDefinition]:
    """Every job."""
    return [migrate, settlements]
