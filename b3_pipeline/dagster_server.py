"""Dagster's code server, web server and daemon as processes of ours: their home, command lines and health."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx2

from b3_pipeline.credentials import write_private
from b3_pipeline.errors import B3Error
from b3_pipeline.ports import HOST
from b3_pipeline.postgres.dsn import checked
from b3_pipeline.processes import Program
from b3_pipeline.settings import PROJECT, Settings
from b3_pipeline.sockets import private_folder, socket_folder

CODE_SERVER, WEBSERVER, DAEMON = "dagster-code-server", "dagster-webserver", "dagster-daemon"
SOCKET = "code.sock"
#: Sensors that turn at once, and room for what the web server asks meanwhile.
_CODE_THREADS = 32
_LOCATION = "b3_pipeline"
#: Dagster and its runs stand back behind the API: a turn or a load can wait a moment, the desk need not feel it.
_NICE = 10
POSTGRES_URL = "B3_DAGSTER_POSTGRES_URL"
#: Set for the processes that live long and ask much; see `defs.storage`.
KEEPS_CONNECTIONS = "B3_DAGSTER_KEEPS_CONNECTIONS"
COMPUTE_LOGS, COMPUTE_LOG_DAYS = "logs", 30
#: Writers that QuestDB is given at once, so that it still answers queries; every asset of the pool `questdb` counts.
QUESTDB_WRITERS = 2

_DAEMON = {
    # without threads one slow sensor delays all others, and schedules too
    # as many at once as keep the turns short that find nothing: on two processors more only share them, and take the
    # processor from the API
    "sensors": {"use_threads": True, "num_workers": 2},
    "schedules": {"use_threads": True, "num_workers": 4},
    "backfills": {"use_threads": True, "num_workers": 2},
    # a sensor ticks every few seconds: what did nothing is soon of no interest, a failure for long
    "retention": {
        "sensor": {"purge_after_days": {"skipped": 1, "started": 1, "success": 14, "failure": 90}},
        "schedule": {"purge_after_days": {"skipped": 14, "started": 14, "success": 90, "failure": 90}},
    },
}
_RUNS = {
    "run_launcher": {"module": "b3_pipeline.defs.zombies", "class": "WatchfulRunLauncher", "config": {}},
    # A run whose process is gone fails after at most one poll and is launched again: its loads resume under their ids.
    # One that failed by itself would fail again: what may pass (a server that restarts) is for a step's retry policy.
    "run_monitoring": {
        "enabled": True,
        "start_timeout_seconds": 180,
        "cancel_timeout_seconds": 60,
        "max_resume_run_attempts": 0,
        "poll_interval_seconds": 10,
        "free_slots_after_run_end_seconds": 30,
    },
    "run_retries": {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False},
    # the code server may be starting again when a run's turn comes
    "run_queue": {"max_user_code_failure_retries": 5, "user_code_failure_retry_delay": 10},
    "concurrency": {
        # By run: a run that is killed leaves no slot taken, and a command's own run never waits for a backfill.
        "pools": {"default_limit": QUESTDB_WRITERS, "granularity": "run"},
        "runs": {
            "max_concurrent_runs": 4,
            # one less than writers: a backfill of years leaves room for today's runs
            "tag_concurrency_limits": [{"key": "dagster/backfill", "limit": QUESTDB_WRITERS - 1}],
        },
    },
}
_STATE = """{
  workspaceOrError { ... on Workspace { locationEntries { loadStatus locationOrLoadError {
    __typename ... on PythonError { message causes { message } } } } } }
  instance { daemonHealth { allDaemonStatuses { daemonType required healthy lastHeartbeatTime } } } }"""


class DefinitionsBroken(B3Error):
    """Dagster is up, but the project's definitions do not load."""


def environment(settings: Settings, postgres_dsn: str) -> dict[str, str]:
    """What Dagster needs in its environment to work in this home; holds the database's password.

    Makes `B3_HOME/dagster/dagster.yaml`.
    """
    home = settings.folder("dagster")
    write_private(home / "dagster.yaml", instance_config(home))
    return {
        **settings.environment(),
        "DAGSTER_EVENT_BATCH_SIZE": "200",  # a backfill reports thousands of partitions
        "DAGSTER_HOME": str(home),
        POSTGRES_URL: storage_url(postgres_dsn),
    }


def instance_config(home: Path) -> str:
    """The text of `dagster.yaml` (as JSON, which is YAML): where all is kept, for how long, and how much runs at once."""
    config = {
        "storage": {
            "custom": {
                "module": "b3_pipeline.defs.storage",
                "class": "Storage",
                "config": {"postgres_url": {"env": POSTGRES_URL}},
            }
        },
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
        **_DAEMON,
        **_RUNS,
        "compute_logs": {
            "module": "dagster._core.storage.local_compute_log_manager",
            "class": "LocalComputeLogManager",
            "config": {"base_dir": str(home / COMPUTE_LOGS)},
        },
        "local_artifact_storage": {
            "module": "dagster._core.storage.root",
            "class": "LocalArtifactStorage",
            "config": {"base_dir": str(home)},
        },
    }
    return json.dumps(config, indent=2) + "\n"


def drop_old_compute_logs(home: Path, now: datetime) -> int:
    """Deletes what runs printed more than `COMPUTE_LOG_DAYS` ago, for Dagster never does; returns of how many runs.

    `home` is `B3_HOME/dagster`; the runs' own events stay, they are in PostgreSQL.
    """
    oldest, dropped = now.timestamp() - COMPUTE_LOG_DAYS * 86_400, 0
    for run in (home / COMPUTE_LOGS).glob("*/"):
        if run.stat().st_mtime < oldest:
            shutil.rmtree(run, ignore_errors=True)
            dropped += 1
    return dropped


def storage_url(dsn: str) -> str:
    """A DSN as Dagster's storage takes it. Raises BadDsn.

    SQLAlchemy 2.1 takes `postgresql://` for psycopg 3, in which dagster-postgres sends a `NOTIFY` that is no valid SQL.
    """
    return urlunsplit(urlsplit(checked(dsn))._replace(scheme="postgresql+psycopg2"))


def programs(settings: Settings, env: Mapping[str, str], definitions: Path | None = None) -> list[Program]:
    """The code server, and the web server and the daemon, which both take the definitions from it.

    Without one of ours each would start its own, and the daemon another one every minute: seconds of work each time.
    `definitions` is a Python file with others than the project's. Makes `B3_HOME/dagster/workspace.yaml`.
    """
    port, quiet, address = str(settings.ports.dagster), ["--log-level", "warning"], code_socket(settings.home)
    private_folder(address.parent)
    workspace = str(_workspace(settings, address))
    code = ["-f", str(definitions)] if definitions else ["-m", "b3_pipeline.definitions"]
    # its errors are to be told by the web server, not only in a log: so they come of the first question
    code += ["--lazy-load-user-code", "--location-name", _LOCATION, "--use-python-environment-entry-point"]
    beside_us = Path(sys.executable).parent
    commands = {
        CODE_SERVER: ["dagster", "api", "grpc", "-s", str(address), "-n", str(_CODE_THREADS), *code, *quiet],
        WEBSERVER: [WEBSERVER, "-h", HOST, "-p", port, "-w", workspace, *quiet],
        DAEMON: [DAEMON, "run", "-w", workspace, *quiet],
    }
    kept = {KEEPS_CONNECTIONS: "1"}
    more = {CODE_SERVER: kept, DAEMON: kept}
    return [
        Program(
            name,
            [sys.executable, str(beside_us / argv[0]), *argv[1:]],
            PROJECT,
            {**os.environ, **env, **more.get(name, {})},
            nice=_NICE,
        )
        for name, argv in commands.items()
    ]


def code_socket(home: Path) -> Path:
    """Where the code server of a home listens, in a folder that only we can enter. Raises SocketPathTooLong."""
    return socket_folder(home, "dagster", SOCKET) / SOCKET


def _workspace(settings: Settings, address: Path) -> Path:
    """The file that names the code server to the others (JSON, which is YAML)."""
    file = settings.folder("dagster") / "workspace.yaml"
    server = {"grpc_server": {"host": "localhost", "socket": str(address), "location_name": _LOCATION}}
    write_private(file, json.dumps({"load_from": [server]}, indent=2) + "\n")
    return file


def code_server_healthy(home: Path) -> bool:
    """Whether the code server takes connections."""
    with closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.settimeout(5)
        return probe.connect_ex(str(code_socket(home))) == 0


def webserver_healthy(client: httpx2.Client, port: int) -> bool:
    """Whether the web server answers."""
    try:
        return client.get(f"http://{HOST}:{port}/server_info").is_success
    except httpx2.HTTPError:
        return False


def daemon_healthy(client: httpx2.Client, port: int, since: float = 0) -> bool:
    """Whether the definitions are loaded and every daemon that must run gives heartbeats, as the web server sees it.

    Heartbeats before `since` (seconds since 1970) do not count: Dagster takes those of a dead daemon for half an hour.
    Raises DefinitionsBroken when the definitions cannot be loaded.
    """
    try:
        answer = client.post(f"http://{HOST}:{port}/graphql", json={"query": _STATE})
        state = answer.raise_for_status().json().get("data")
    except (httpx2.HTTPError, ValueError):
        return False
    if not state:
        return False
    locations = state["workspaceOrError"].get("locationEntries", [])
    for location in locations:
        loaded = location["locationOrLoadError"]
        if loaded and loaded["__typename"] == "PythonError":
            messages = [loaded["message"], *(cause["message"] for cause in loaded["causes"])]
            raise DefinitionsBroken("\n".join(["The Dagster definitions do not load:", *map(str.strip, messages)]))
    daemons = state["instance"]["daemonHealth"]["allDaemonStatuses"]
    loaded = bool(locations) and all(location["loadStatus"] == "LOADED" for location in locations)
    beating = (daemon["healthy"] and daemon["lastHeartbeatTime"] >= since for daemon in daemons if daemon["required"])
    return loaded and all(beating)
