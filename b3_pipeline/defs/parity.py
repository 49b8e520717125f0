"""The job that proves what is stored against its sources, and keeps the report: what it looks at is in `quality.validate`."""

from pathlib import Path

import dagster as dg

from b3_pipeline.defs.resources import Inputs, Store
from b3_pipeline.quality import parity_report
from b3_pipeline.quality.validate import NUMBERS, Report, validate


@dg.op(pool="questdb")
def prove_parity(context: dg.OpExecutionContext, config: Inputs, store: dg.ResourceParam[Store]) -> None:
    """Runs every check of every table as `b3 validate` does, and keeps the report for the page and the cutover's gates.

    One of another folder than the home's own (B3_LEGACY_DIR) is not kept.

    It fails, so that it is run again, when a check of severity ERROR did not pass.
    """
    with store.database() as db:
        looked_at = store.looked_at_anew(config, db)
        report = validate(
            looked_at,
            lambda check: context.log.info(f"{check.table.name}: {check.name}"),
            lambda: store.looked_at_anew(config, db),
        )
    document = report.document()
    own = store.settings.legacy_dir
    kept = parity_report.stands(Path(config.legacy_dir) if config.legacy_dir else own, own)
    if kept:
        parity_report.keep(store.settings.home, document, looked_at.now)
    metadata = _told(report, store.settings.home if kept else None)
    if not report.ok:
        raise dg.Failure("; ".join(document["errors"]), metadata=metadata)
    context.add_output_metadata(metadata)


def _told(report: Report, home: Path | None) -> dict[str, dg.MetadataValue]:
    """The numbers of each table and feed, those of the documents, what did not pass, and the home that keeps the report."""
    records = [
        dg.TableRecord({"table": table, "feed": feed, **numbers})
        for table, feeds in report.tables.items()
        for feed, numbers in feeds.items()
    ]
    columns = [dg.TableColumn("table"), dg.TableColumn("feed"), *(dg.TableColumn(name, "int") for name in NUMBERS)]
    red = [f"{check.table.name}, {check.name}" for check, _finding in report.failed("ERROR")]
    return {
        "parity": dg.MetadataValue.table(records, dg.TableSchema(columns)),
        **{f"documents_{name}": dg.MetadataValue.int(number) for name, number in report.payloads.items()},
        "checks_not_passed": dg.MetadataValue.text(", ".join(red) or "none"),
        **({"report": dg.MetadataValue.path(parity_report.path_of(home))} if home else {}),
    }


@dg.job(
    description="Proves that what is stored equals its sources, and keeps the report (`b3 validate`, the page /paridade).",
    executor_def=dg.in_process_executor,
)
def parity() -> None:
    prove_parity()
