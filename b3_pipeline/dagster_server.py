"""Dagster's web server and daemon as processes of ours: their home, command lines and health, over HTTP."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx2

from b3_pipeline.credentials import write_private
from b3_pipeline.errors import B3Error
from b3_pipeline.ports import HOST
from b3_pipeline.processes import Program
from b3_pipeline.settings import PROJECT, Settings

WEBSERVER, DAEMON = "dagster-webserver", "dagster-daemon"
POSTGRES_URL = "B3_DAGSTER_POSTGRES_URL"
_STATE = """{
  workspaceOrError { ... on Workspace { locationEntries { loadStatus locationOrLoadError {
    __typename ... on PythonError { message causes { message } } } } } }
  instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"""


class DefinitionsBroken(B3Error):
    """Dagster is up, but the project's definitions do not load."""


def environment(settings: Settings, postgres_dsn: str) -> dict[str, str]:
    """What Dagster needs in its environment to work in this home; holds the database's password.

    Makes `B3_HOME/dagster/dagster.yaml`.
    """
    home = settings.folder("dagster")
    write_private(home / "dagster.yaml", instance_config(home))
    legacy = {"B3_LEGACY_DIR": str(settings.legacy_dir)} if settings.legacy_dir else {}
    return {
        **legacy,
        "DAGSTER_HOME": str(home),
        "B3_HOME": str(settings.home),
        "B3_PORT_BASE": str(settings.port_base),
        POSTGRES_URL: storage_url(postgres_dsn),
    }


def instance_config(home: Path) -> str:
    """The text of `dagster.yaml` (as JSON, which is YAML): storage, telemetry, sensors, logs."""
    config = {
        "storage": {"postgres": {"postgres_url": {"env": POSTGRES_URL}}},
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
        "sensors": {"use_threads": True, "num_workers": 8},
        "compute_logs": {
            "module": "dagster._core.storage.local_compute_log_manager",
            "class": "LocalComputeLogManager",
            "config": {"base_dir": str(home / "logs")},
        },
        "local_artifact_storage": {
            "module": "dagster._core.storage.root",
            "class": "LocalArtifactStorage",
            "config": {"base_dir": str(home)},
        },
    }
    return json.dumps(config, indent=2) + "\n"


def storage_url(dsn: str) -> str:
    """A DSN as Dagster's storage takes it. Raises B3Error when it is no URL.

    SQLAlchemy 2.1 takes `postgresql://` for psycopg 3, in which dagster-postgres sends a `NOTIFY` that is no valid SQL.
    """
    parts = urlsplit(dsn)
    if parts.scheme not in ("postgres", "postgresql"):
        raise B3Error("B3_POSTGRES_DSN must look like postgresql://user:password@host:5432/database.")
    return urlunsplit(parts._replace(scheme="postgresql+psycopg2"))


def programs(settings: Settings, env: Mapping[str, str], workspace: Path) -> list[Program]:
    """The web server and the daemon, each with the definitions of `workspace` (a workspace.yaml)."""
    port = str(settings.ports.dagster)
    beside_us = Path(sys.executable).parent
    commands = {
        WEBSERVER: [WEBSERVER, "-h", HOST, "-p", port, "-w", str(workspace), "--log-level", "warning"],
        DAEMON: [DAEMON, "run", "-w", str(workspace)],
    }
    return [
        Program(name, [sys.executable, str(beside_us / argv[0]), *argv[1:]], PROJECT, {**os.environ, **env})
        for name, argv in commands.items()
    ]


def webserver_healthy(client: httpx2.Client, port: int) -> bool:
    """Whether the web server answers."""
    try:
        return client.get(f"http://{HOST}:{port}/server_info").is_success
    except httpx2.HTTPError:
        return False


def daemon_healthy(client: httpx2.Client, port: int) -> bool:
    """Whether the definitions are loaded and every daemon that must run gives heartbeats, as the web server sees it.

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
    return loaded and all(daemon["healthy"] for daemon in daemons if daemon["required"])
