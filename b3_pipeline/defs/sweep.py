"""The job that looks for gaps and repairs them, in the evening of a session and the morning after: the rules are in `quality.sweeping`."""

import dagster as dg

from b3_pipeline.defs.resources import Store
from b3_pipeline.postgres.known_gaps import open_known_gaps
from b3_pipeline.quality.sources import at_hand
from b3_pipeline.quality.sweeping import SweepReport, sweep, ways_of


@dg.op(pool="questdb")
def sweep_gaps(context: dg.OpExecutionContext, store: dg.ResourceParam[Store]) -> None:
    """Looks for what is missing in every market table; says what it repaired, marked, and had to leave open.

    It fails, so that it is run again, when something went wrong on the way to a gap that is left, or a source gives what
    is missing today for the last time.
    """
    dsn = store.postgres_dsn
    if dsn is None:
        raise dg.Failure("PostgreSQL is not up: what is known of gaps is kept there. `b3 up` starts it.")
    files = at_hand(store.settings.legacy_dir, store.settings.home)
    with (
        store.loader(context.run_id) as loader,
        open_known_gaps(dsn) as known,
    ):
        looked_at, ways = store.context(loader.db, files), ways_of(store.settings)
        report = sweep(looked_at, loader, known, ways, who="job gaps", announce=context.log.info)
    for state, gaps in report.states.items():
        for gap, why in gaps.items():
            context.log.info(f"{state}: {gap.feed} {gap.table} {gap.session} {gap.part} {why}")
    counts = {
        "found": len(report.found),
        "repaired": len(report.repaired),
        "known": len(report.known),
        "open": len(report.open),
        "no_longer_known": len(report.unmarked),
    }
    if again := why_again(report):
        raise dg.Failure(again, metadata=counts)
    context.add_output_metadata(counts)


def why_again(report: SweepReport) -> str:
    """Why a sweep is to be made again soon; empty when it is not."""
    last = [f"{gap.feed} {gap.table} {gap.session} {gap.part}".rstrip() for gap in report.last_chances]
    problems = [
        *([f"Missing, and given for the last time today: {', '.join(last[:10])}."] if last else []),
        *([f"Something went wrong: {'; '.join(report.failed[:10])}."] if report.failed else []),
    ]
    return " ".join(problems)


@dg.job(
    description="Looks for sessions, buckets and captures that a feed misses; fills them from archive, shadow files and source.",
    executor_def=dg.in_process_executor,
)
def gaps() -> None:
    sweep_gaps()
