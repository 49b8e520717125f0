"""Runs whose process is gone: known by what is noted when a run starts, and closed, so that none stays open for ever.

A command's run is closed by the next command that runs a job, and within `run_monitoring`'s interval by the daemon of
`b3 up`; a run that the daemon launched, by the latter.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import dagster as dg
import psutil
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, LaunchRunContext, WorkerStatus

from b3_pipeline.settings import Settings

#: `<home's id>` for a run that the daemon launched, `<home's id> <pid> <create time>` for one of a command.
PROCESS_TAG = "b3/process"
_OPEN = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
_CLOCK_S = 2.0  # the system derives a process's age from the wall clock, which is put right now and then
_EVENTS_AT_MOST = 20  # the process is named in one of a run's first engine events


def command_tags(settings: Settings) -> dict[str, str]:
    """The tags of a run that is executed by this process."""
    created = psutil.Process().create_time()
    return {PROCESS_TAG: f"{_home_id(settings)} {os.getpid()} {created!r}"}


def close_zombies(instance: dg.DagsterInstance, settings: Settings) -> list[str]:
    """Reports the home's open runs whose process is gone as failed; returns their ids."""
    closed = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_OPEN)):
        if why := what_became_of(instance, run, settings):
            instance.report_run_failed(run, why)
            closed.append(run.run_id)
    return closed


def what_became_of(instance: dg.DagsterInstance, run: dg.DagsterRun, settings: Settings) -> str | None:
    """A sentence on the end of the process of an open run; None while it lives, and when it is not ours to know.

    Storage may be shared by several homes, and only a home itself can tell about its processes.
    """
    home, _, process = run.tags.get(PROCESS_TAG, "").partition(" ")
    if home != _home_id(settings):
        return None
    if process:
        number, created = process.split()
        pid, earliest, latest = int(number), float(created), float(created)
    elif (worker := _worker(instance, run)) is not None:
        pid, earliest, latest = worker[0], 0.0, worker[1]
    else:
        return None
    if _lives(pid, earliest - _CLOCK_S, latest + _CLOCK_S):
        return None
    return (
        f"The process of this run (pid {pid}) is gone: it was killed, or the machine stopped. Nothing is lost: run it "
        "again, and each load goes on where it stopped."
    )


def _worker(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[int, float] | None:
    """The process id of a launched run, and a moment when it was alive, by its own account."""
    entries = instance.event_log_storage.get_logs_for_run(
        run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT, limit=_EVENTS_AT_MOST
    )
    for entry in entries:
        event = entry.dagster_event
        metadata: Mapping[str, Any] = event.engine_event_data.metadata if event else {}
        if "pid" in metadata:
            return int(metadata["pid"].value), entry.timestamp
    return None


def _lives(pid: int, earliest: float, latest: float) -> bool:
    """Whether a process with this id that was created between these moments (s since 1970) runs: ids are used again."""
    try:
        process = psutil.Process(pid)
        return earliest <= process.create_time() <= latest and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _home_id(settings: Settings) -> str:
    """What tells this home from others, whatever machine or container it is mounted in; made on first use."""
    file = settings.folder("dagster") / "home-id"
    if not file.exists():
        draft = file.with_name(f".home-id.{uuid.uuid4().hex}")
        draft.write_text(uuid.uuid4().hex, "utf-8")
        with suppress(FileExistsError):  # of two processes that make it at once the first one's stays
            os.link(draft, file)
        draft.unlink()
    return file.read_text("utf-8")


class WatchfulRunLauncher(DefaultRunLauncher):
    """Dagster's own launcher, which also lets run monitoring see whether a run's process is alive."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def launch_run(self, context: LaunchRunContext) -> None:
        # also over the tag that a re-execution took from its parent
        self._instance.add_run_tags(context.dagster_run.run_id, {PROCESS_TAG: _home_id(Settings())})
        super().launch_run(context)

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        gone = what_became_of(self._instance, run, Settings())
        return CheckRunHealthResult(WorkerStatus.FAILED, gone) if gone else CheckRunHealthResult(WorkerStatus.RUNNING)
