from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from b3_pipeline.alerts import watching
from b3_pipeline.alerts.conditions import Condition
from b3_pipeline.alerts.watching import Watcher
from b3_pipeline.settings import Settings
from b3_pipeline_tests.alerts.conftest import NOON, Clock


class Watched:
    """A home that is watched: services that are up or not, a collector that beats, a clock."""

    def __init__(self, home: Path, *, off: Sequence[str] = ()) -> None:
        self.home, self.clock = home, Clock()
        self.states: Mapping[str, bool] | Exception = {"questdb": True, "dagster-daemon": True}
        self.watcher = Watcher(
            Settings(home=home, sources_off=list(off)), self._ask, self.clock.now, self.clock.monotonic
        )
        self.beat()

    def _ask(self) -> Mapping[str, bool]:
        if isinstance(self.states, Exception):
            raise self.states
        return self.states

    def beat(self) -> None:
        self.write("collector/heartbeat.json", {"at": self.clock.now().isoformat(), "pid": 1})

    def write(self, name: str, content: Any) -> None:
        file = self.home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))

    def look(self, after: float = 0) -> dict[str, Condition]:
        self.clock.turn(after)
        return {one.key: one for one in self.watcher.look()}


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_what_is_well_is_green(watched: Watched) -> None:
    found = watched.look()
    assert set(found) == {"service:questdb", "service:dagster-daemon", "service:collector", "disk:home"}
    assert not any(one.red for one in found.values())


def test_a_service_is_told_of_when_it_has_been_down_for_a_minute(watched: Watched) -> None:
    watched.states = {"questdb": False, "dagster-daemon": True}
    assert "service:questdb" not in watched.look(), "neither red nor green"
    watched.beat()
    assert "service:questdb" not in watched.look(after=59)
    red = watched.look(after=1)["service:questdb"]
    assert (red.red, red.severity, red.at) == (True, "ERROR", NOON)
    assert "logs/questdb.log" in red.what_to_do
    watched.states = {"questdb": True}
    assert not watched.look()["service:questdb"].red


def test_a_service_that_was_up_in_between_is_not_down_for_long(watched: Watched) -> None:
    for state in (False, True, False):
        watched.states = {"questdb": state}
        found = watched.look(after=50)
    assert "service:questdb" not in found


def test_a_collector_whose_heart_does_not_beat_is_dead(watched: Watched) -> None:
    assert not watched.look(after=29)["service:collector"].red
    assert "service:collector" not in watched.look(after=2)
    assert watched.look(after=60)["service:collector"].red
    watched.beat()
    assert not watched.look()["service:collector"].red


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"at": "soon"}', '{"at": 5.5e300}', '{"at": "2025-10-14T12:00:00"}']
)
def test_a_heartbeat_that_cannot_be_read_is_none(watched: Watched, content: str) -> None:
    watched.write("collector/heartbeat.json", content)
    watched.look()
    assert watched.look(after=60)["service:collector"].red


def test_services_that_cannot_be_asked_hide_nothing_else(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.states = RuntimeError("postgresql://user:s3cret@host")
    assert set(watched.look()) == {"disk:home"}
    assert "services could not be looked at: RuntimeError" in caplog.text
    assert "s3cret" not in caplog.text


def test_what_services_were_is_known_for_a_while(watched: Watched) -> None:
    with pytest.raises(LookupError):
        watched.watcher.services()
    watched.look()
    assert watched.watcher.services() == {"questdb": True, "dagster-daemon": True, "collector": True}
    watched.clock.turn(100)
    with pytest.raises(LookupError):
        watched.watcher.services()


@pytest.mark.parametrize(
    ("free", "red", "severity"), [(500, True, "ERROR"), (1_500, True, "WARN"), (5_000, False, None)]
)
def test_a_disk_is_told_of_before_it_is_full(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, free: int, red: bool, severity: str | None
) -> None:
    monkeypatch.setattr(watching, "disk", lambda _settings: {"free": free * 2.0**20, "needed": 1_000 * 2.0**20})
    found = watched.look()["disk:home"]
    assert found.red == red
    assert severity in (None, found.severity)
    assert f"{free} MB are free" in found.what


def test_a_source_is_told_of_when_it_has_failed_some_times(watched: Watched) -> None:
    since = (NOON - timedelta(minutes=5)).isoformat()
    watched.write(
        "archive/dxy_chart/state.json", {"failing_since": since, "failures": 4, "problem": "429", "etag": "x"}
    )
    assert "source:dxy_chart" not in watched.look()
    watched.write(
        "archive/dxy_chart/state.json", {"failing_since": since, "failures": 5, "problem": "429", "etag": "x"}
    )
    red = watched.look()["source:dxy_chart"]
    assert (red.red, red.severity, red.at) == (True, "WARN", NOON - timedelta(minutes=5))
    assert red.what == "dxy_chart has failed 5 times since 2025-10-14 14:55:00 UTC (14/10 11:55 Brasília): 429"
    watched.write("archive/dxy_chart/state.json", {"failing_since": None, "failures": 0, "problem": None})
    assert not watched.look()["source:dxy_chart"].red


@pytest.mark.parametrize("content", ["", "[1", '{"failures": "many"}'])
def test_a_source_whose_state_cannot_be_read_hides_no_other(watched: Watched, content: str) -> None:
    watched.write("archive/dxy_chart/state.json", content)
    watched.write("archive/vol_surface/state.json", {"failing_since": None})
    assert set(watched.look()) >= {"source:vol_surface", "disk:home"}


def test_heartbeats_are_given_by_their_age(watched: Watched) -> None:
    watched.clock.turn(12)
    assert watching.heartbeats(watched.home, watched.clock.now()) == {"collector": 12}


def test_a_source_that_is_switched_off_or_not_configured_fails_no_more(tmp_path: Path) -> None:
    watched = Watched(tmp_path, off=["dxy_chart"])
    for source in ("dxy_chart", "gamma_levels"):
        state = {"failing_since": NOON.isoformat(), "failures": 9, "problem": "429"}
        watched.write(f"archive/{source}/state.json", state)
    found = watched.look()
    assert [found[f"source:{name}"].what for name in ("dxy_chart", "gamma_levels")] == [
        "dxy_chart is switched off.",
        "gamma_levels is switched off.",
    ]
    assert not any(one.red for one in found.values())


def test_the_alerts_sensor_is_told_of_when_it_has_had_no_turn_for_long(watched: Watched) -> None:
    watched.states = {"postgres": True, "dagster-daemon": True}
    folder = watched.home / "alerts"
    folder.mkdir()
    watching.beat(folder)
    watched.write(
        "alerts/heartbeat.json", json.loads((folder / "heartbeat.json").read_text()) | {"at": NOON.isoformat()}
    )
    assert not watched.look()["service:alerts"].red
    watched.look(after=31)
    red = watched.look(after=60)["service:alerts"]
    assert red.red
    assert "sensor `alerts`" in red.what_to_do
    watched.states = {"postgres": True, "dagster-daemon": False}
    assert "service:alerts" not in watched.look(), "the daemon is told, and no sensor can have a turn"
    watched.states = {"postgres": True, "dagster-daemon": True}
    assert "service:alerts" not in watched.look(), "it has its minute from the daemon's start on"
