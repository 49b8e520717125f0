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
from b3_pipeline.defs.tables import LEDGERS
from b3_pipeline.errors import B3Error
from b3_pipeline.services import Engines


@contextmanager
def home_instance(store: Store, servers: Engines) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of the home, its storage in the home's PostgreSQL."""
    try:
        psycopg.connect(servers.postgres_dsn, connect_timeout=10).close()
    except psycopg.Error as error:  # asked here, for Dagster would ask for a long time, and show the password
        raise B3Error(f"PostgreSQL does not answer: {error}. Is B3_POSTGRES_DSN right?") from None
    env = environment(store.settings, servers.postgres_dsn)
    os.environ.update(env)  # the instance's configuration names variables, so that no file holds the password
    with dg.DagsterInstance.from_config(env["DAGSTER_HOME"]) as instance:
        # else the storage connects anew for each of some 250 questions in a run, a sixth of its time
        instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3_600, max_overflow=20)
        yield instance


def run_job(job: str, inputs: Mapping[str, Any], store: Store, servers: Engines) -> list[str]:
    """Runs a job on the given inputs; returns the sentences of what failed, none when all went well."""
    definition = build_defs({"store": store}).resolve_job_def(job)
    ops = {node.name for node in definition.nodes} - {t.name for t in LEDGERS}
    quiet = {"console": {"config": {"log_level": "CRITICAL"}}}  # the command says in its own words what happened
    config = {"ops": {name: {"config": dict(inputs)} for name in ops}, "loggers": quiet}
    with home_instance(store, servers) as instance:
        try:
            result = definition.execute_in_process(
                run_config=config, instance=instance, raise_on_error=False, tags={"b3/command": job}
            )
        except dg.DagsterExecutionInterruptedError:
            raise KeyboardInterrupt from None
    return list(dict.fromkeys(_sentence(event) for event in result.all_events if event.is_step_failure))


def _sentence(event: dg.DagsterEvent) -> str:
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    cause = data.error.cause or data.error if data.error else None
    # the text of an error begins with its class, which tells a reader nothing
    return re.sub(r"^[\w.]+: ", "", cause.message.strip()) if cause else f"{event.step_key} failed"
