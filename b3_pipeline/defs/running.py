"""Running a job of ours in this process, recorded in the home's Dagster instance as the UI shows it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
import psycopg

from b3_pipeline.dagster_server import environment
from b3_pipeline.definitions import build_defs
from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.tables import DESCRIBED
from b3_pipeline.defs.zombies import close_zombies, command_tags
from b3_pipeline.errors import B3Error
from b3_pipeline.postgres.dsn import checked, reason
from b3_pipeline.services import Engines

_RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


@contextmanager
def home_instance(store: Store, servers: Engines) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of the home, its storage in the home's PostgreSQL."""
    try:
        psycopg.connect(checked(servers.postgres_dsn), connect_timeout=10).close()
    except psycopg.Error as error:  # asked here, for Dagster would ask for a long time, and show the password
        raise B3Error(f"PostgreSQL does not answer: {reason(error)}. Is B3_POSTGRES_DSN right?") from None
    env = environment(store.settings, servers.postgres_dsn)
    os.environ.update(env)  # the instance's configuration names variables, so that no file holds the password
    with dg.DagsterInstance.from_config(env["DAGSTER_HOME"]) as instance:
        # else the storage connects anew for each of some 250 questions in a run, a sixth of its time
        instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3_600, max_overflow=20)
        yield instance


def run_job(
    job: str, inputs: Mapping[str, Any], store: Store, servers: Engines, sessions: tuple[str, str] | None = None
) -> list[str]:
    """Runs a job on the given inputs, over everything or from one partition to another.

    Returns the sentences of what failed, none when all went well.
    """
    definition = build_defs({"store": store}).resolve_job_def(job)
    ops = {node.name for node in definition.nodes} - DESCRIBED
    quiet = {"console": {"config": {"log_level": "CRITICAL"}}}  # the command says in its own words what happened
    config = {"ops": {name: {"config": dict(inputs)} for name in ops}, "loggers": quiet}
    tags = {"b3/command": job, **command_tags(store.settings)}
    if sessions:
        tags |= dict(zip(_RANGE_TAGS, sessions, strict=True))
    with home_instance(store, servers) as instance:
        close_zombies(instance, store.settings)
        try:
            result = definition.execute_in_process(
                run_config=config, instance=instance, raise_on_error=False, tags=tags
            )
        except dg.DagsterExecutionInterruptedError:
            raise KeyboardInterrupt from None
    return list(dict.fromkeys(s for event in result.all_events if (s := _sentence(event))))


def _sentence(event: dg.DagsterEvent) -> str | None:
    """What a failed check or a failed step has to say. A step that failed because its checks did adds nothing."""
    if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        check = event.asset_check_evaluation_data
        red = not check.passed and check.severity == dg.AssetCheckSeverity.ERROR
        return f"{check.asset_key.to_user_string()}, check {check.check_name}: {check.description}" if red else None
    if not event.is_step_failure:
        return None
    data = event.step_failure_data
    if data.error and data.error.cls_name == "DagsterAssetCheckFailedError":
        return None
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    cause = data.error.cause or data.error if data.error else None
    # the text of an error begins with its class, which tells a reader nothing
    return re.sub(r"^[\w.]+: ", "", cause.message.strip()) if cause else f"{event.step_key} failed"
