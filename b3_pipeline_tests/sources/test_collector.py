"""The resident collector: sources beside one another, signs of life, a clean end; and what it must not need."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time as real_time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from b3_pipeline.clock import Pace, set_clock
from b3_pipeline.errors import UsageError
from b3_pipeline.metrics import instruments
from b3_pipeline.parsing.kinds import CAPTURE, DXY_CHART, GAMMA_LEVELS, REPORT
from b3_pipeline.settings import Settings
from b3_pipeline.sources import catalog, collector
from b3_pipeline.sources.archive import FOLDER, Archive
from b3_pipeline.sources.catalog import Source
from b3_pipeline.sources.collecting import Collecting, Outcome
from b3_pipeline.sources.collector import AlreadyCollecting, Collector, collect_once
from b3_pipeline.sources.fetching import Asked, Fetch, Fetched, Getter, Unreachable
from b3_pipeline.sources.state import State
from b3_pipeline.sources.times import Times
from b3_pipeline_tests.waiting import gone, until

OFTEN = Times(time(0), time(23, 50), timedelta(seconds=10))
SESSION = datetime(2025, 10, 14, 15, tzinfo=UTC)
SILENT = ("dagster", "psycopg", "questdb")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home whose clock is in a session, and a hundred times as fast as ours."""
    settings = Settings(home=tmp_path / "home")
    set_clock(settings.home, Pace(SESSION, datetime.now(UTC), 100))
    return settings


def gives(asked: list[Asked]) -> Fetch:
    """A source that has something new whenever it is asked."""

    def fetch(_settings: Settings, _getter: Getter, question: Asked) -> Fetched:
        asked.append(question)
        return Fetched("some.json", b"%d" % len(asked), "https://example.org", 200)

    return fetch


def named(*sources: Source) -> dict[str, Source]:
    return {source.name: source for source in sources}


@contextmanager
def running(collector: Collector) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=collector.run)
    thread.start()
    try:
        yield thread
    finally:
        collector.stop()
        thread.join(20)
        assert not thread.is_alive()


def test_a_source_that_hangs_and_one_that_breaks_hinder_no_other(settings: Settings) -> None:
    released, asked, broken = threading.Event(), [], []

    def hangs(*_: object) -> Fetched:
        released.wait(60)
        raise Unreachable("at last")

    def breaks(*_: object) -> Fetched:
        broken.append(1)
        raise KeyError("a secret")

    told: list[str] = []
    sources = named(
        Source(REPORT, "", hangs, times=OFTEN),
        Source(DXY_CHART, "", breaks, times=OFTEN),
        Source(GAMMA_LEVELS, "", gives(asked), times=OFTEN),
    )
    try:
        with running(Collector(settings, sources, lambda source, message: told.append(f"{source}: {message}"))):
            until(lambda: len(asked) > 3 and len(broken) > 1)
    finally:
        released.set()
    archive = Archive(settings.home / FOLDER)
    assert archive.last("gamma_levels") >= 3
    assert archive.last("settlement_report") == 0
    assert State.read(archive.place("dxy_chart")).failures >= 1
    assert any(line.startswith("dxy_chart: failed: unexpected KeyError") for line in told)
    assert not any("a secret" in line for line in told)


def test_work_that_ends_with_an_error_begins_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "_AFTER_ERROR_S", 0.01)
    asked, told = [], []
    (settings.home / "clock.json").rename(settings.home / "clock.aside")
    (settings.home / "clock.json").write_text("{")
    with running(
        Collector(settings, named(Source(GAMMA_LEVELS, "", gives(asked), times=OFTEN)), lambda *t: told.append(t))
    ):
        until(lambda: any("is no clock" in message for _, message in told))
        assert not asked
        (settings.home / "clock.aside").replace(settings.home / "clock.json")
        until(lambda: asked)


def test_an_unexpected_failure_stands_in_the_state_of_its_source_until_it_is_over(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "_AFTER_ERROR_S", 0.01)
    asked, step, broken = [], Collecting.step, threading.Event()
    broken.set()

    def breaks(one: Collecting) -> object:
        if broken.is_set():
            raise KeyError("a secret")
        return step(one)

    monkeypatch.setattr(Collecting, "step", breaks)
    place = Archive(settings.home / FOLDER).place("gamma_levels")
    with running(Collector(settings, named(Source(GAMMA_LEVELS, "", gives(asked), times=OFTEN)), lambda *_: None)):
        until(lambda: State.read(place).failures >= settings.alert_source_failures)
        problem, since = State.read(place).problem, State.read(place).failing_since
        assert str(problem).startswith("unexpected KeyError in test_collector.py")
        assert since is not None
        assert since.date() == SESSION.date()
        broken.clear()
        until(lambda: asked and State.read(place).failing_since is None)


def test_a_watcher_that_breaks_off_counts_as_a_failure_of_what_it_watches(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_watcher: object, _stop: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(collector, "_AFTER_ERROR_S", 0.01)
    monkeypatch.setattr(collector.Watcher, "run", breaks)
    settings.legacy_dir = tmp_path
    capture = named(Source(CAPTURE, "", gives([]), file=CAPTURE.file, times=OFTEN))
    place = Archive(settings.home / FOLDER).place("ultimo_dado")
    with running(Collector(settings, capture, lambda *_: None)):
        until(lambda: State.read(place).failures > 1)


def test_it_gives_signs_of_life_in_real_time(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "HEARTBEAT_S", 0.02)
    path = settings.home / "collector" / "heartbeat.json"

    def beat() -> dict[str, Any]:
        return json.loads(path.read_text("utf-8"))

    with running(Collector(settings, {}, lambda *_: None)):
        until(path.exists)
        first = beat()
        until(lambda: beat()["at"] > first["at"])
    assert first["pid"] == os.getpid()
    assert abs(datetime.now(UTC) - datetime.fromisoformat(first["at"])) < timedelta(minutes=1)
    assert collector.HEARTBEAT_S < 5


def test_there_is_one_collector_a_home(settings: Settings) -> None:
    with running(Collector(settings, {}, lambda *_: None)):
        until((settings.home / "collector" / "heartbeat.json").exists)
        with pytest.raises(AlreadyCollecting):
            Collector(settings, {}, lambda *_: None).run()


def test_the_legacy_documents_are_watched_where_there_is_a_folder_and_asked_for_where_there_is_none(
    settings: Settings, tmp_path: Path
) -> None:
    asked: list[Asked] = []
    capture = named(Source(CAPTURE, "", gives(asked), file=CAPTURE.file, times=OFTEN))
    with running(Collector(settings, capture, lambda *_: None)):
        until(lambda: asked)
    settings.legacy_dir = tmp_path / "legacy"
    settings.legacy_dir.mkdir()
    (settings.legacy_dir / "ultimo_dado.json").write_bytes(b'{"by": "file"}')
    asked.clear()
    archive = Archive(settings.home / FOLDER)
    with running(Collector(settings, capture, lambda *_: None)):
        until(lambda: (e := archive.newest("ultimo_dado")) is not None and archive.read(e) == b'{"by": "file"}')
    assert not asked


def test_sources_that_are_switched_off_are_not_collected(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", sources_off=["dxy_chart", "settlement_report"])
    told: list[tuple[str, str]] = []
    with running(Collector(settings, None, lambda *line: told.append(line))):
        until(lambda: told)
    [said] = [message for source, message in told if message.startswith("collects")]
    assert "financial_indicators" in said
    assert "dxy_chart" not in said
    assert "composed_capture" not in said  # nobody is asked for it


def test_one_collection_by_hand_asks_whatever_the_time(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.now = datetime(2025, 10, 12, 3, tzinfo=UTC)  # the night to a Sunday
    asked: list[Asked] = []
    monkeypatch.setattr(catalog, "SOURCES", named(Source(GAMMA_LEVELS, "", gives(asked), times=OFTEN)))
    attempt = collect_once(settings, "gamma_levels")
    assert attempt.outcome == Outcome.NEW
    assert attempt.entry is not None
    assert attempt.entry.at == settings.now


@pytest.mark.parametrize("name", ["nothing", "composed_capture", "gamma_levels", "ajustes_b3"])
def test_what_cannot_be_asked_is_a_wrong_call(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        collect_once(Settings(home=tmp_path), name)


def test_attempts_are_counted(settings: Settings) -> None:
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    asked: list[Asked] = []
    sources = named(Source(GAMMA_LEVELS, "", gives(asked), times=OFTEN))
    with running(Collector(settings, sources, lambda *_: None)):
        until(lambda: len(asked) > 2)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(settings.home / "metrics"))
    value: Callable[..., float | None] = registry.get_sample_value
    fetched = value("b3_fetches_total", {"source": "gamma_levels", "outcome": "new"})
    assert fetched is not None
    assert fetched >= 2
    assert value("b3_archive_entries_total", {"source": "gamma_levels"}) == fetched
    assert instruments.ready(settings)
    instruments.stop()


def command(home: Path, *arguments: str, **given: str) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("B3_")} | {"B3_HOME": str(home), **given}
    argv = [sys.executable, "-m", "b3_pipeline", *arguments]
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_cleanly_and_soon(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "legacy").mkdir()
    home = tmp_path / "home"
    given = {"B3_LEGACY_DIR": str(tmp_path / "legacy"), "B3_NOW": "2025-10-12T12:00:00+00:00"}
    with command(home, "collect", **given) as process:
        until((home / "collector" / "heartbeat.json").exists)
        until((home / "archive" / "gamma" / "state.json").exists)
        began = real_time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert real_time.monotonic() - began < 10
    assert process.returncode == 0
    assert out == ""
    assert "gamma: failed: gamma.json is not in the legacy folder" in err
    assert "Traceback" not in err
    assert gone(process.pid)


def test_it_loads_neither_dagster_nor_a_database() -> None:
    code = (
        "import sys; import b3_pipeline.cli, b3_pipeline.sources.collector\n"
        "from b3_pipeline.sessions import is_session; from datetime import date; is_session(date(2025, 10, 14))\n"
        f"print(sorted(n for n in sys.modules if n.split('.')[0] in {SILENT}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout == "[]\n"
