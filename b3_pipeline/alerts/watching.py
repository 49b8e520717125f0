"""What the monitor sees by itself: services, the heartbeats of collector and alerts sensor, the disk, sources that fail again and again.

All of it is liveness, so real time counts here, not the settings' clock. Nothing is told before its threshold; what is
well is told as green each time, and costs nothing.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ValidationError

from b3_pipeline.alerts.conditions import Condition
from b3_pipeline.alerts.messages import both_times
from b3_pipeline.dagster_server import DAEMON
from b3_pipeline.postgres.server import NAME as POSTGRES
from b3_pipeline.residents import COLLECTOR, MONITOR, SILENT_S, heartbeat_age
from b3_pipeline.settings import Settings
from b3_pipeline.sources.catalog import collected

#: The sensor that hands over what Dagster knows; without it nobody hears of checks, runs and sensors.
ALERTS = "alerts"
#: What was seen longer ago is not known any more.
KNOWN_S = 90.0
SOURCES = 200
_log = logging.getLogger(__name__)
_ADVICE = (
    "`b3 up` starts it again by itself; if it stays down, logs/restarts.log and logs/{name}.log in the home say why, and "
    "`b3 doctor` looks at disk, ports and limits. What is fetched meanwhile is kept in the archive."
)
_COLLECTOR_ADVICE = (
    "Nothing is fetched while it is dead: `b3 up` starts it again by itself; logs/collector.log and logs/restarts.log in "
    "the home say why it is not. Afterwards `b3 validate` shows whether something is missing."
)

_ALERTS_ADVICE = (
    "No failed check, run or sensor is told while it is silent. Switch the sensor `alerts` on (Dagster, Automation); its last "
    "ticks say what is wrong. It goes on where it stopped."
)
_ADVICES = {COLLECTOR: _COLLECTOR_ADVICE, ALERTS: _ALERTS_ADVICE}


def real_now() -> datetime:
    """The present, UTC, whatever the settings pretend."""
    return datetime.now(UTC)


class SourceState(BaseModel):
    """What the collector writes of a source in `archive/<source>/state.json`; anything else in it is its own."""

    failing_since: AwareDatetime | None = None
    failures: int = 0
    problem: str | None = None


class Watcher:
    """Looks at all of it again and again, and remembers since when something has been down.

    `states` tells by name which services are up (`services.states`); it may take long, and raise.
    """

    def __init__(
        self,
        settings: Settings,
        states: Callable[[], Mapping[str, bool]],
        now: Callable[[], datetime] = real_now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._states, self._now, self._clock = settings, states, now, clock
        self._down_since: dict[str, float] = {}
        self._up: dict[str, bool] = {}
        self._looked_at: float | None = None

    def look(self) -> list[Condition]:
        """What is red beyond its threshold, and what is green."""
        found: list[Condition] = []
        for part in (self._services, self._disk, self._sources):
            try:
                found.extend(part())
            except (
                Exception
            ) as error:  # what is broken is what this looks at: the other parts must be seen all the same
                _log.warning("%s could not be looked at: %s", part.__name__.strip("_"), type(error).__name__)
        return found

    def services(self) -> Mapping[str, bool]:
        """Which services were up when somebody last looked. Raises LookupError when that is long ago."""
        if self._looked_at is None or self._clock() - self._looked_at > KNOWN_S:
            raise LookupError("the services have not been looked at for long")
        return dict(self._up)

    def _services(self) -> Iterator[Condition]:
        up = dict(self._states())
        ages = heartbeats(self._settings.home, self._now())
        up[COLLECTOR] = ages.get(COLLECTOR, math.inf) <= SILENT_S
        up.pop(MONITOR, None)  # that is who looks
        if up.get(DAEMON) and up.get(POSTGRES):
            up[ALERTS] = ages.get(ALERTS, math.inf) <= SILENT_S
        else:  # no sensor can have a turn, which is told already
            self._down_since.pop(ALERTS, None)
        self._up, self._looked_at = up, self._clock()
        for name, is_up in up.items():
            if is_up:
                self._down_since.pop(name, None)
                yield self._condition("service", name, what=f"{name} is up.", link="/deployment/daemons")
                continue
            seconds = self._clock() - self._down_since.setdefault(name, self._clock())
            if seconds >= self._settings.alert_service_down_s:
                yield self._condition(
                    "service",
                    name,
                    red=True,
                    what=f"{name} is down: it does not run, or does not answer.",
                    what_to_do=_ADVICES.get(name) or _ADVICE.format(name=name),
                    link="/deployment/daemons",
                    at=self._now() - timedelta(seconds=seconds),
                )

    def _disk(self) -> Iterator[Condition]:
        sizes = disk(self._settings)
        free, needed = sizes["free"], sizes["needed"]
        free_mb, needed_mb = int(free) // 2**20, int(needed) // 2**20
        red = free < 2 * needed
        yield self._condition(
            "disk",
            "home",
            red=red,
            severity="ERROR" if free < needed else "WARN",
            what=f"{'Only ' if red else ''}{free_mb} MB are free on the disk of {self._settings.home}; below {needed_mb} MB "
            "nothing is loaded.",
            what_to_do="Make room: old exports and backups, logs. Nothing is lost: what is fetched is loaded afterwards.",
        )

    def _sources(self) -> Iterator[Condition]:
        wanted = collected(self._settings)
        for file in sorted((self._settings.home / "archive").glob("*/state.json"))[:SOURCES]:
            name = file.parent.name
            if name not in wanted:
                yield self._condition("source", name, severity="WARN", what=f"{name} is switched off.")
                continue
            try:
                state = SourceState.model_validate_json(file.read_bytes())
            except (OSError, ValidationError):
                _log.warning("the state of source %s cannot be read", name)
                continue
            if state.failing_since is None:
                yield self._condition("source", name, severity="WARN", what=f"{name} can be fetched.")
            elif state.failures >= self._settings.alert_source_failures:
                why = f": {state.problem[:300]}" if state.problem else ""
                yield self._condition(
                    "source",
                    name,
                    red=True,
                    severity="WARN",
                    what=f"{name} has failed {state.failures} times since {both_times(state.failing_since)}{why}",
                    what_to_do="`b3 doctor` tries its address and credentials. B3 keeps only about 21 sessions of some files.",
                    at=state.failing_since,
                )

    def _condition(self, kind: str, name: str, **said: Any) -> Condition:
        return Condition.model_validate({"kind": kind, "name": name, "red": False, "at": self._now()} | said)


def heartbeats(home: Path, now: datetime) -> dict[str, float]:
    """By process, how many seconds ago it last gave a sign of life; those that never did, or not readably, are left out."""
    ages = {name: heartbeat_age(home, name, now) for name in (COLLECTOR, MONITOR, ALERTS)}
    return {name: age for name, age in ages.items() if age is not None}


def beat(folder: Path) -> None:
    """A sign of life in the folder of who gives it: `heartbeats` reads it."""
    file = folder / "heartbeat.json"
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps({"at": real_now().isoformat(), "pid": os.getpid()}), "utf-8")
    draft.replace(file)  # not synced: after a crash of the machine nobody asks for it


def disk(settings: Settings) -> dict[str, float]:
    """Bytes: what is free on the home's disk, and what is needed."""
    return {"free": float(shutil.disk_usage(settings.home).free), "needed": settings.min_free_disk_mb * 2.0**20}
