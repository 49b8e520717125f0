"""The files that the tables come from, as upstream assets: others write them, a run observes them before it loads.

What is observed is each source's content (its data version is a hash of it), so the UI says which tables have not been
loaded since their file changed.
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from b3_pipeline.defs.resources import Inputs, Store
from b3_pipeline.loading.payloads import Found
from b3_pipeline.parsing.kinds import ARCHIVED_KINDS, LIVE_KINDS, SIGNALS, TP_KINDS, Kind

KINDS = (*ARCHIVED_KINDS, *TP_KINDS)
_FOLDERS = {**dict.fromkeys((*LIVE_KINDS, SIGNALS), "live"), **dict.fromkeys(TP_KINDS, "tp_capital")}
# Every Dagster package is pinned to one release, so a beta function does not change under us.
warnings.filterwarnings("ignore", "Function `multi_observable_source_asset` is currently in beta", dg.BetaWarning)


def source_key(kind: Kind) -> dg.AssetKey:
    """The asset key of a kind of file: `legacy/ajustes_b3`, `live/settlement_report`, `tp_capital/telegram_bots`."""
    return dg.AssetKey([_FOLDERS.get(kind, "legacy"), kind.name])


def _spec(kind: Kind) -> dg.AssetSpec:
    return dg.AssetSpec(
        source_key(kind),
        description=f"{kind.what[:1].upper()}{kind.what[1:]}: `{kind.file}`, feed `{kind.feed}`.",
        group_name="sources",
        owners=["team:market-data"],
        kinds={kind.file.rpartition(".")[2], "file"},
    )


def source_assets() -> list[Any]:
    """The legacy files, B3's report and TP-Capital's exports, observed by one step."""

    @dg.multi_observable_source_asset(specs=[_spec(kind) for kind in KINDS], can_subset=True)
    def observe_sources(
        context: dg.AssetExecutionContext, config: Inputs, store: dg.ResourceParam[Store]
    ) -> Iterator[dg.ObserveResult]:
        for kind in KINDS:
            if source_key(kind) in context.selected_asset_keys:
                yield _observed(kind, store.files(config, context.run.run_id, [kind]))

    return [observe_sources]


def _observed(kind: Kind, files: Sequence[Found]) -> dg.ObserveResult:
    """What is there of one kind: its files with size and hash, and one version for all of them."""
    there = [f.payload for f in files if f.payload]
    version = hashlib.sha256("".join(p.sha256 for p in there).encode()).hexdigest()
    records = [
        dg.TableRecord({"file": f.name, "bytes": f.payload.size if f.payload else 0, "outcome": f.outcome or "found"})
        for f in files
    ]
    columns = [dg.TableColumn("file"), dg.TableColumn("bytes", "float"), dg.TableColumn("outcome")]
    return dg.ObserveResult(
        source_key(kind),
        data_version=dg.DataVersion(version),
        metadata={
            "files": dg.MetadataValue.table(records, dg.TableSchema(columns)),
            "bytes": sum(p.size for p in there),
            **({"newest": dg.MetadataValue.path(str(there[-1].path)), "sha256": there[-1].sha256} if there else {}),
        },
    )
