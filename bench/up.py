"""A real `b3 up` of the benchmark's own, in a temporary home, and what Dagster and its processes tell of themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from b3_pipeline import dagster_server, residents
from b3_pipeline.errors import B3Error
from b3_pipeline.metrics.instruments import TICK_SECONDS
from b3_pipeline.ports import HOST
from b3_pipeline.processes import Record
from b3_pipeline.services import Engines, running
from b3_pipeline.settings import PROJECT, Settings
from bench.server import free_base

LOADS = "load_"  # how the sensors are called that load
_START_TIMEOUT_S, _STOP_TIMEOUT_S = 300, 120
_TICKS = """query Ticks($after: Float) { repositoriesOrError { ... on RepositoryConnection { nodes { sensors {
  name sensorState { ticks(afterTimestamp: $after, limit: 1000) { timestamp endTimestamp status skipReason } } } } } } }"""


@dataclass(frozen=True)
class Tick:
    """A turn of a sensor that has ended: when it began and ended (seconds since 1970): loaded, nothing or failed."""

    sensor: str
    began: float
    ended: float
    outcome: str

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Up:
    """What runs in a home."""

    def __init__(self, settings: Settings, engines: Engines) -> None:
        self.settings, self.engines = settings, engines

    def ticks(self, since: float) -> list[Tick]:
        """The turns of loading sensors that began after a moment (seconds since 1970), in the order of their beginning."""
        address = f"http://{HOST}:{self.settings.ports.dagster}/graphql"
        question = {"query": _TICKS, "variables": {"after": since}}
        answer = httpx2.post(address, json=question, timeout=60, trust_env=False).raise_for_status().json()
        sensors = [s for node in answer["data"]["repositoriesOrError"]["nodes"] for s in node["sensors"]]
        found = [
            Tick(sensor["name"], tick["timestamp"], tick["endTimestamp"], _outcome(tick))
            for sensor in sensors
            if sensor["name"].startswith(LOADS)
            for tick in sensor["sensorState"]["ticks"]
            if tick["endTimestamp"]
        ]
        return sorted(found, key=lambda tick: tick.began)

    def turns(self) -> tuple[float, float]:
        """How many turns the loading sensors' functions have made so far, and the seconds that they took in all."""
        address = f"http://{HOST}:{self.settings.ports.metrics}/metrics"
        text = httpx2.get(address, timeout=60, trust_env=False).raise_for_status().text
        found = dict.fromkeys(("count", "sum"), 0.0)
        for family in text_string_to_metric_families(text):
            for sample in family.samples if family.name == TICK_SECONDS.name else ():
                part = sample.name.removeprefix(f"{TICK_SECONDS.name}_")
                if part in found and sample.labels["sensor"].startswith(LOADS):
                    found[part] += sample.value
        return found["count"], found["sum"]

    def resident(self) -> dict[str, int]:
        """Resident memory by process, in bytes; sensors turn in the code server."""
        found: dict[str, int] = {}
        for name in (residents.COLLECTOR, residents.MONITOR, dagster_server.DAEMON, dagster_server.CODE_SERVER):
            record = Record.of(self.settings.home, name)
            process = record.process() if record else None
            if process is None:
                raise SystemExit(f"{name} does not run any more: see its log in {self.settings.home / 'logs'}")
            found[name] = process.memory_info().rss
        return found


@contextmanager
def up(home: Path, *arguments: str, **variables: str) -> Iterator[Up]:
    """Everything that `b3 up` with these arguments starts, healthy, for the length of the block.

    `variables` go into its environment; those of the home that one works in do not.
    """
    base = free_base()
    ours = {"B3_HOME": str(home), "B3_PORT_BASE": str(base), **variables}
    env = {name: value for name, value in os.environ.items() if not name.startswith(("B3_", "DAGSTER_"))} | ours
    try:
        _b3(["up", "--detach", *arguments], env, _START_TIMEOUT_S)
        settings = Settings(home=home, port_base=base)
        engines = running(settings)
        if engines is None:
            raise B3Error("`b3 up` says that it is ready, and its databases are not there.")
        yield Up(settings, engines)
    finally:
        _b3(["down"], env, _STOP_TIMEOUT_S)


def _outcome(tick: dict[str, str]) -> str:
    """For Dagster a turn that launches no run is SKIPPED: what it says tells whether there was something to load."""
    if tick["status"] == "FAILURE":
        return "failed"
    return "nothing" if tick["skipReason"].startswith("Nothing new") else "loaded"


def _b3(arguments: list[str], env: dict[str, str], timeout_s: float) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "b3_pipeline", *arguments],
        cwd=PROJECT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"b3 {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-4_000:]}")
