"""Runs whose process was killed: known as such, closed with a sentence, never closed while they are at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.events import EngineEventData
from dagster._core.launcher import WorkerStatus

from b3_pipeline.dagster_server import environment
from b3_pipeline.defs.zombies import PROCESS_TAG, WatchfulRunLauncher, close_zombies, command_tags, what_became_of
from b3_pipeline.settings import Settings
from b3_pipeline_tests.waiting import gone

#: `b3 migrate`, standing still in the middle of its first load.
STANDING = """
import sys, time
from pathlib import Path
from b3_pipeline.cli import data
from b3_pipeline.defs import resources

class Store(resources.Store):
    def __init__(self, _progress=None, files=()):
        super().__init__(self.stand_still, files)
    def stand_still(self, _bytes):
        print("at work", flush=True)
        time.sleep(60)

resources.Store = Store
data.migrate_folder(Path(sys.argv[1]), show=False)
"""


@dg.job
def nothing() -> None:
    pass


@pytest.fixture
def instance(home: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    env = environment(Settings(), postgres)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.from_config(env["DAGSTER_HOME"]) as instance:
        yield instance
        for run in instance.get_runs():
            instance.delete_run(run.run_id)


@contextmanager
def standing(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A real migration at work on a folder; killed at the end of the block if not before."""
    with subprocess.Popen([sys.executable, "-c", STANDING, folder], stdout=subprocess.PIPE, text=True) as command:
        try:
            assert command.stdout is not None
            assert command.stdout.readline() == "at work\n"
            yield command
        finally:
            command.kill()


def launched(instance: dg.DagsterInstance, pid: int, home: str) -> dg.DagsterRun:
    """A run as the daemon launches it, whose worker has told its process id just now."""
    run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
    instance.add_run_tags(run.run_id, {PROCESS_TAG: home})
    instance.report_engine_event("Started process for run.", run, EngineEventData.in_process(pid))
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found


def status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_the_run_of_a_killed_migration_is_closed_and_the_next_one_finishes_its_loads(
    instance: dg.DagsterInstance, shared: Path
) -> None:
    folder = shared / "data" / "legacy" / "clean"
    with standing(folder) as command:
        [run] = instance.get_runs(limit=1)
        assert run.status == dg.DagsterRunStatus.STARTED
        assert close_zombies(instance, Settings()) == [], "it is at work"
        os.kill(command.pid, signal.SIGKILL)
    assert status(instance, run.run_id) == dg.DagsterRunStatus.STARTED
    again = subprocess.run(
        [sys.executable, "-m", "b3_pipeline", "migrate", "--legacy", folder], capture_output=True, check=False
    )
    assert again.returncode == 0
    assert status(instance, run.run_id) == dg.DagsterRunStatus.FAILURE
    [failure] = [e for e in instance.all_logs(run.run_id) if e.dagster_event and e.dagster_event.is_job_failure]
    assert f"(pid {command.pid}) is gone" in failure.user_message + str(failure.dagster_event)
    assert "goes on where it stopped" in str(failure.dagster_event)
    assert {r.status for r in instance.get_runs(limit=2)} == {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS}
    assert close_zombies(instance, Settings()) == [], "once is enough"


def test_a_launched_run_is_judged_by_the_process_that_its_worker_named(instance: dg.DagsterInstance) -> None:
    launcher = instance.run_launcher
    assert isinstance(launcher, WatchfulRunLauncher)
    home = command_tags(Settings())[PROCESS_TAG].split()[0]
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as worker:
        run = launched(instance, worker.pid, home)
        assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
        worker.kill()
    assert gone(worker.pid)
    health = launcher.check_run_worker_health(run)
    assert health.status == WorkerStatus.FAILED
    assert f"(pid {worker.pid}) is gone" in str(health)
    assert close_zombies(instance, Settings()) == [run.run_id]


def test_a_process_that_came_later_under_the_same_id_is_another_one(instance: dg.DagsterInstance) -> None:
    created = psutil.Process().create_time()
    home = command_tags(Settings())[PROCESS_TAG].split()[0]
    run = launched(instance, os.getpid(), home)
    assert what_became_of(instance, run, Settings()) is None
    old = replace_tag(run, f"{home} {os.getpid()} {created - 60}")
    assert "is gone" in (what_became_of(instance, old, Settings()) or "")


@pytest.mark.parametrize("tag", ["", "another-home", "another-home 1 0.5"])
def test_runs_of_another_home_and_runs_without_a_process_are_left_alone(instance: dg.DagsterInstance, tag: str) -> None:
    run = launched(instance, 2**22 + 1, tag)
    assert what_became_of(instance, run, Settings()) is None
    assert close_zombies(instance, Settings()) == []


def replace_tag(run: dg.DagsterRun, value: str) -> dg.DagsterRun:
    return run.with_tags({**run.tags, PROCESS_TAG: value})


def test_a_home_keeps_its_name(home: Path) -> None:
    assert command_tags(Settings()) == command_tags(Settings())
    assert not list((home / "dagster").glob(".home-id*"))
