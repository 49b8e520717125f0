"""Daily work on sessions: asked for again until it is done or its day is over, and never on another day."""

from collections.abc import Collection
from datetime import date

import dagster as dg

from b3_pipeline.defs.backups import backup
from b3_pipeline.defs.exports import exports, verify_exports_weekly
from b3_pipeline.defs.jobs import validate
from b3_pipeline.defs.parity import parity
from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.retention import retention
from b3_pipeline.defs.sweep import gaps
from b3_pipeline.defs.warehouse import warehouse, warehouse_today
from b3_pipeline.sessions import ZONE, is_session
from b3_pipeline.settings import LOCAL_ZONE

#: The session that a run of daily work is for, and the schedule that asked for it.
SESSION_TAG, SCHEDULE_TAG = "b3/session", "b3/schedule"
_UNDER_WAY = {
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
}


def wanted(day: date, runs: Collection[dg.DagsterRunStatus]) -> str | None:
    """Why no run is to be asked for on a local day, when these have been for it; None when one is."""
    if not is_session(day):
        return f"{day} is no session of B3."
    if dg.DagsterRunStatus.SUCCESS in runs:
        return f"Done for the session of {day}."
    if _UNDER_WAY.intersection(runs):
        return f"A run for the session of {day} is under way."
    return None


def daily(
    job: "dg.UnresolvedAssetJobDefinition | dg.JobDefinition", cron: str, what: str, when: str = "daily"
) -> dg.ScheduleDefinition:
    """A schedule that runs a job once a session, and again at each of its times until that succeeds."""
    name = f"{job.name}_{when}"

    @dg.schedule(
        name=name,
        job=job,
        cron_schedule=cron,
        execution_timezone=LOCAL_ZONE,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"{what} On each session, and again until it succeeds or its times are over.",
    )
    def run_daily(
        context: dg.ScheduleEvaluationContext, store: dg.ResourceParam[Store]
    ) -> dg.RunRequest | dg.SkipReason:
        if store.settings.replay_dir is not None:
            return dg.SkipReason("A recording is replayed: its day is not this one.")
        day = context.scheduled_execution_time.astimezone(ZONE).date()
        tags = {SESSION_TAG: day.isoformat(), SCHEDULE_TAG: name}
        runs = [r.status for r in context.instance.get_runs(dg.RunsFilter(job_name=job.name, tags=tags))]
        if why_not := wanted(day, runs):
            return dg.SkipReason(why_not)
        return dg.RunRequest(run_key=f"{name} {day} {len(runs) + 1}", tags=tags)

    return run_daily


def schedules() -> list[dg.ScheduleDefinition]:
    """All schedules."""
    return [
        daily(gaps, "45 20,21,22,23 * * *", "Looks for what is missing, and repairs it where a source still has it."),
        daily(
            gaps,
            "15 8,9,10 * * *",
            "Looks for what is missing since the evening before, while a source that overwrites its file still shows it.",
            "morning",
        ),
        daily(backup, "40 22,23 * * *", "Makes a backup of everything, and proves it by restoring it elsewhere."),
        daily(validate, "15 22,23 * * *", "Looks at everything that is stored: every check of every table."),
        daily(parity, "45 22,23 * * *", "Proves everything that is stored, and keeps the report."),
        daily(exports, "35 21,22,23 * * *", "Exports every closed partition that is new or has changed."),
        daily(warehouse, "5 22,23 * * *", "Loads the warehouse from the exports, and compares both."),
        daily(retention, "25 22,23 * * *", "Takes away what is beyond its limit and safely elsewhere."),
        warehouse_today,
        verify_exports_weekly,
    ]
