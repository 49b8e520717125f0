"""The files that the tables come from, as upstream assets: others write them, a run only observes them."""

from __future__ import annotations

import dagster as dg

from b3_pipeline.parsing.kinds import LEGACY_KINDS, REPORT, Kind

KINDS = (*LEGACY_KINDS, REPORT)


def source_key(kind: Kind) -> dg.AssetKey:
    """The asset key of a kind of file: `legacy/ajustes_b3`, `b3/settlement_report`."""
    return dg.AssetKey(["b3" if kind is REPORT else "legacy", kind.name])


def source_assets() -> list[dg.AssetSpec]:
    """The legacy files and B3's report."""
    return [
        dg.AssetSpec(
            source_key(kind),
            description=f"{kind.what[:1].upper()}{kind.what[1:]}: `{kind.file}`, feed `{kind.feed}`.",
            group_name="sources",
            owners=["team:market-data"],
            kinds={kind.file.rpartition(".")[2], "file"},
        )
        for kind in KINDS
    ]
