"""What Dagster makes of the instance that we configure."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.instance.config import PoolGranularity
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.scheduler.instigation import TickStatus
from dagster_postgres import PostgresEventLogStorage
from sqlalchemy import Engine, event
from sqlalchemy.pool import QueuePool

from b3_pipeline.dagster_server import COMPUTE_LOGS, KEEPS_CONNECTIONS, drop_old_compute_logs, environment
from b3_pipeline.defs import storage
from b3_pipeline.defs.zombies import WatchfulRunLauncher
from b3_pipeline.settings import Settings


@pytest.fixture
def instance(tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    env = environment(Settings(home=tmp_path / "home"), postgres)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.from_config(env["DAGSTER_HOME"]) as instance:
        yield instance


def test_every_key_means_something_to_dagster_and_no_setting_of_ours_is_lost(instance: dg.DagsterInstance) -> None:
    given = json.loads((Path(instance.root_directory) / "dagster.yaml").read_text())
    for key in ("sensors", "schedules", "backfills", "run_monitoring", "run_retries", "concurrency", "retention"):
        in_effect = instance.get_settings(key)
        assert {k: in_effect[k] for k in given[key]} == given[key]


def test_sensors_and_schedules_run_in_threads(instance: dg.DagsterInstance) -> None:
    assert instance.get_settings("sensors")["use_threads"]
    assert instance.get_settings("sensors")["num_workers"] > 1
    assert instance.get_settings("schedules")["use_threads"]


def test_a_run_is_launched_again_when_its_process_is_gone_and_not_when_it_failed(instance: dg.DagsterInstance) -> None:
    assert instance.run_retries_enabled
    assert instance.run_retries_max_retries == 2
    assert not instance.run_retries_retry_on_asset_or_op_failure


def test_run_monitoring_can_see_a_dead_process_and_looks_every_ten_seconds(instance: dg.DagsterInstance) -> None:
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_poll_interval_seconds == 10
    assert instance.run_monitoring_max_resume_run_attempts == 0
    assert instance.run_monitoring_start_timeout_seconds == 180
    assert instance.run_monitoring_cancel_timeout_seconds == 60
    assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] == 30
    assert isinstance(instance.run_launcher, WatchfulRunLauncher)
    assert instance.run_launcher.supports_check_run_worker_health


def test_ticks_are_kept_by_what_they_did(instance: dg.DagsterInstance) -> None:
    sensor = instance.get_tick_retention_settings(InstigatorType.SENSOR)
    assert (sensor[TickStatus.SKIPPED], sensor[TickStatus.SUCCESS], sensor[TickStatus.FAILURE]) == (1, 14, 90)
    schedule = instance.get_tick_retention_settings(InstigatorType.SCHEDULE)
    assert all(days > 0 for days in (*sensor.values(), *schedule.values()))


def test_backfills_leave_room_for_other_runs_and_queries(instance: dg.DagsterInstance) -> None:
    assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
    config = instance.get_concurrency_config()
    assert config.pool_config.pool_granularity is PoolGranularity.RUN
    assert config.pool_config.default_pool_limit == 2
    queue = config.run_queue_config
    assert queue is not None
    assert queue.max_concurrent_runs == 4
    assert queue.tag_concurrency_limits == [{"key": "dagster/backfill", "limit": 1}]
    assert queue.max_user_code_failure_retries == 5


def test_storage_is_the_home_s_postgres_and_nothing_is_told_to_others(instance: dg.DagsterInstance) -> None:
    assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
    assert not instance.telemetry_enabled
    assert not instance.nux_enabled


def test_only_in_a_process_that_lives_long_instances_share_connections_that_are_kept(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def servers_ends(asked: dg.DagsterInstance) -> set[int]:
        storage = asked.event_log_storage
        assert isinstance(storage, PostgresEventLogStorage)
        ends = set()
        for _ in range(3):
            with storage.index_connection() as connection:
                ends.add(connection.exec_driver_sql("select pg_backend_pid()").scalar_one())
        return ends

    assert len(servers_ends(instance)) == 3
    monkeypatch.setenv(KEEPS_CONNECTIONS, "1")
    kept: dict[str, Engine] = {}
    monkeypatch.setattr(storage, "_kept", kept)
    with dg.DagsterInstance.from_config(os.environ["DAGSTER_HOME"]) as one:
        ends = servers_ends(one)
    with dg.DagsterInstance.from_config(os.environ["DAGSTER_HOME"]) as other:
        assert servers_ends(other) == ends
    [connections] = kept.values()
    connections.dispose()
    assert len(ends) == 1


def pooled(config: Mapping[str, Any]) -> bool:
    return isinstance(storage.Storage.from_config_value(None, config)._run_storage._engine.pool, QueuePool)


def test_a_run_of_the_code_server_has_its_environment_and_keeps_no_connection(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEEPS_CONNECTIONS, "1")
    kept: dict[str, Engine] = {}
    monkeypatch.setattr(storage, "_kept", kept)
    config = {"postgres_url": instance.run_storage.postgres_url}  # pyright: ignore[reportAttributeAccessIssue]
    assert pooled(config)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as spawned:
        assert not spawned.submit(pooled, config).result()
    for connections in kept.values():
        connections.dispose()


def test_that_dagster_s_tables_are_there_is_asked_once(instance: dg.DagsterInstance) -> None:
    schedules = instance.schedule_storage
    assert isinstance(schedules, storage.Schedules)
    asked: list[str] = []
    event.listen(schedules._engine, "before_cursor_execute", lambda _c, _k, query, *_: asked.append(query))
    for _ in range(3):
        assert schedules.supports_batch_queries
    assert sum("pg_class" in query for query in asked) <= 2  # its own table, and that of the indexes


def test_what_runs_printed_long_ago_is_dropped(tmp_path: Path) -> None:
    old, new = tmp_path / COMPUTE_LOGS / "old", tmp_path / COMPUTE_LOGS / "new"
    for run in (old, new):
        (run / "compute_logs").mkdir(parents=True)
        (run / "compute_logs" / "step.out").write_text("hello")
    now = datetime(2026, 1, 31, tzinfo=UTC)
    for run, days in ((old, 31), (new, 29)):
        at = now.timestamp() - days * 86_400
        os.utime(run, (at, at))
    assert drop_old_compute_logs(tmp_path, now) == 1
    assert [run.name for run in (tmp_path / COMPUTE_LOGS).iterdir()] == ["new"]
    assert drop_old_compute_logs(tmp_path / "nowhere", now) == 0
