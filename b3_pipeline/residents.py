"""Our own resident processes beside the servers, the collector and the monitor: how they start, and signs of life."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from b3_pipeline.processes import Program
from b3_pipeline.settings import PROJECT, Settings

COLLECTOR, MONITOR = "collector", "monitor"
#: A process that has given no sign of life for this long is no longer at its work.
SILENT_S = 30
START_TIMEOUT_S = 60
_COMMANDS = {COLLECTOR: ["b3_pipeline", "collect"], MONITOR: ["b3_pipeline.monitor"]}


def programs(settings: Settings) -> list[Program]:
    """The collector and the monitor of a home."""
    env = {**os.environ, **settings.environment()}
    return [Program(name, [sys.executable, "-m", *command], PROJECT, env) for name, command in _COMMANDS.items()]


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
