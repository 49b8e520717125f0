"""Our own resident processes beside the servers: the collector, the monitor, the API. How they start, signs of life."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx2

from b3_pipeline.ports import HOST
from b3_pipeline.processes import Program
from b3_pipeline.settings import PROJECT, Ports, Settings

COLLECTOR, MONITOR, API, LEGACY = "collector", "monitor", "api", "legacy-api"
#: A process that has given no sign of life for this long is no longer at its work.
SILENT_S = 30
START_TIMEOUT_S = 60
#: Who asks when it is only looked whether a service answers: no reader, and not counted as one.
HEALTH_AGENT = "b3-pipeline-health"
_COMMANDS = {
    COLLECTOR: ["b3_pipeline", "collect"],
    MONITOR: ["b3_pipeline.monitor"],
    API: ["b3_pipeline.api"],
    LEGACY: ["b3_pipeline.api", "--legacy"],
}


def names(settings: Settings) -> list[str]:
    """Those that a home has: the second port of the legacy routes only where it is set."""
    return [name for name in _COMMANDS if name != LEGACY or settings.legacy_port is not None]


def programs(settings: Settings) -> list[Program]:
    """The resident processes of a home."""
    env = {**os.environ, **settings.environment()}
    return [Program(name, [sys.executable, "-m", *_COMMANDS[name]], PROJECT, env) for name in names(settings)]


def answers(client: httpx2.Client, settings: Settings, ports: Ports, name: str) -> bool:
    """Whether a resident process that serves HTTP answers; that it can say anything of the data is another question."""
    address = f"{settings.legacy_port}/status" if name == LEGACY else f"{ports.page}/api/v1/health"
    try:
        return client.get(f"http://{HOST}:{address}", headers={"User-Agent": HEALTH_AGENT}).status_code < 600
    except httpx2.HTTPError:
        return False


def heartbeat_age(home: Path, name: str, now: datetime | None = None) -> float | None:
    """Seconds since a resident process last gave a sign of life; None when it never did, or not readably."""
    try:
        given = json.loads((home / name / "heartbeat.json").read_text("utf-8"))
        return ((now or datetime.now(UTC)) - datetime.fromisoformat(given["at"])).total_seconds()
    except (OSError, ValueError, KeyError, TypeError):
        return None


def alive(home: Path, name: str, since: float = 0) -> bool:
    """Whether it gave a sign of life lately, and later than `since` (seconds since 1970)."""
    age = heartbeat_age(home, name)
    return age is not None and age <= SILENT_S and datetime.now(UTC).timestamp() - age >= since
