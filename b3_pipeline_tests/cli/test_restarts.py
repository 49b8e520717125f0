"""A running `b3 up` whose servers are killed, and the runs that they had at work."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from b3_pipeline.ports import HOST
from b3_pipeline.processes import Record
from b3_pipeline_tests.cli.test_services import NAMES, answer, definitions, environment, run  # noqa: F401 (a fixture)
from b3_pipeline_tests.waiting import processes_of, until

pytestmark = [pytest.mark.xdist_group("up"), pytest.mark.slow]

#: A job that stands still when it runs for the first time, and goes through when it runs again.
STANDING = """
import time
from pathlib import Path
import dagster as dg

@dg.op
def stand() -> None:
    mark = Path({mark!r})
    if not mark.exists():
        mark.touch()
        time.sleep(600)

@dg.job(executor_def=dg.in_process_executor)
def standing() -> None:
    stand()

defs = dg.Definitions(jobs=[standing])
"""
LAUNCH = """mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } } }"""
RUNS = """{ runsOrError { ... on Runs { results { runId status parentRunId
  eventConnection { events { ... on RunFailureEvent { message } } } } } } }"""


class Dagster:
    """The web server's GraphQL API."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def ask(self, query: str, **variables: object) -> Any:
        """The data of an answer; None while the server is away or cannot answer."""
        try:
            return self._client.post("/graphql", json={"query": query, "variables": variables}).json().get("data")
        except (httpx2.HTTPError, ValueError):
            return None

    def launch(self, job: str) -> str:
        selector = {"repositoryLocationName": "b3_pipeline", "repositoryName": "__repository__", "jobName": job}
        return self.ask(LAUNCH, params={"selector": selector})["launchRun"]["run"]["runId"]

    def runs(self) -> list[dict[str, Any]]:
        """The runs, newest first."""
        data = self.ask(RUNS)
        return data["runsOrError"].get("results", []) if data else []


def kill(home: Path, name: str) -> None:
    record = Record.of(home, name)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)


def test_every_server_that_is_killed_comes_back_and_the_run_at_work_is_closed_and_launched_again(
    bare_home: Path,
    environment: dict[str, str],  # noqa: F811
    port_base: int,
    tmp_path: Path,
) -> None:
    mark = tmp_path / "mark"
    up = run(environment, "up", "--detach", "--definitions", definitions(tmp_path, STANDING.format(mark=str(mark))))
    assert up.returncode == 0, up.stderr
    client = httpx2.Client(base_url=f"http://{HOST}:{port_base + 1}", trust_env=False, timeout=30)
    dagster = Dagster(client)
    try:
        first = dagster.launch("standing")
        until(mark.exists)
        for name in NAMES:
            kill(bare_home, name)

        def status() -> dict[str, Any]:
            return answer(run(environment, "status", "--json"))

        until(lambda: min(status()["restarts"].values()) >= 1 and set(status()["services"].values()) == {"up"}, 120)
        until(lambda: any(r["parentRunId"] == first and r["status"] == "SUCCESS" for r in dagster.runs()), 120)
        closed = next(r for r in dagster.runs() if r["runId"] == first)
        assert closed["status"] == "FAILURE"
        assert any("goes on where it stopped" in e.get("message", "") for e in closed["eventConnection"]["events"])
        log = (bare_home / "logs" / "restarts.log").read_text()
        for name in NAMES:
            assert f"{name} ended with code -9" in log
            assert f"{name} is up again." in log
    finally:
        client.close()
        stopped = answer(run(environment, "down", "--json"))["stopped"]
    assert set(stopped) == set(NAMES)
    assert processes_of(bare_home) == []
