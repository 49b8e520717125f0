"""The jobs that people launch: the historical migration, whole or by table; what is loaded by hand; the validation."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from b3_pipeline.defs.sources import source_key
from b3_pipeline.defs.tables import TOMBSTONES
from b3_pipeline.parsing.kinds import LEGACY_KINDS, REPORT, TP_KINDS, Kind
from b3_pipeline.tables import ARCHIVED_TABLES, LEDGERS, MARKET_TABLES, TABLES, TP_TABLES, Table


def _assets(kinds: Iterable[Kind], tables: Iterable[str]) -> dg.AssetSelection:
    """The sources, then the tables with their checks, then the ledgers."""
    return dg.AssetSelection.assets(*map(source_key, kinds), *tables, *(t.name for t in LEDGERS))


migrate = dg.define_asset_job(
    "migrate",
    selection=_assets(LEGACY_KINDS, (t.name for t in MARKET_TABLES)),
    description=(
        "Loads a legacy folder into every table: the whole history (`b3 migrate`), or the sessions that are chosen "
        "here. Running it again changes nothing."
    ),
)
replay = dg.define_asset_job(
    "replay",
    selection=_assets([], (t.name for t in ARCHIVED_TABLES)),
    description="Loads what the raw archive has of the live sources once more (`b3 replay`): a lost table comes back from it.",
)
settlements = dg.define_asset_job(
    "settlements",
    selection=_assets([REPORT], REPORT.tables),
    description="Loads B3's settlement reports, BVBG.187 (`b3 settlements`).",
)
signals = dg.define_asset_job(
    "signals",
    selection=_assets(TP_KINDS, [*(t.name for t in TP_TABLES), TOMBSTONES.name]),
    description="Loads TP-Capital's signals, bots and channels (`b3 signals import`).",
)
validate = dg.define_asset_job(
    "validate",
    selection=dg.AssetSelection.checks_for_assets(*TABLES),
    description="Looks at everything that is stored, and loads nothing: every check of every table (`b3 validate`).",
)


def _backfill(table: Table) -> dg.UnresolvedAssetJobDefinition:
    """The table alone: `dg launch` takes a range only of what is partitioned, which its sources are not."""
    return dg.define_asset_job(
        f"backfill_{table.name}",
        selection=dg.AssetSelection.assets(table.name),
        description=f"Loads the sessions that are chosen here into {table.name}. Running it again changes nothing.",
    )


def jobs() -> list[dg.UnresolvedAssetJobDefinition]:
    """Every job."""
    return [migrate, replay, settlements, signals, validate, *map(_backfill, MARKET_TABLES)]
