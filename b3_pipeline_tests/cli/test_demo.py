"""`b3 up --demo`: a synthetic session is replayed, and the tables grow by the sensors alone."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import httpx2
import pytest

from b3_pipeline.clock import HomeClock
from b3_pipeline.demo import begin, prepare, require_none
from b3_pipeline.errors import UsageError
from b3_pipeline.loading.archived import KINDS, archive_of, payload_of
from b3_pipeline.ports import HOST
from b3_pipeline.settings import Settings
from b3_pipeline.sources.archive import Archive
from b3_pipeline.sources.catalog import collected
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.cli.test_services import answer, environment, run  # noqa: F401 (a fixture)
from b3_pipeline_tests.waiting import until

SUNDAY = datetime(2025, 10, 12, 15, tzinfo=UTC)
_RUNS = "{ runsOrError { ... on Runs { results { jobName status } } } }"


@pytest.fixture(autouse=True)
def all_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay asks nobody, so nothing has to be off."""
    monkeypatch.delenv("B3_SOURCES_OFF")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def test_the_last_session_is_replayed_and_the_clock_stands_until_it_begins(settings: Settings) -> None:
    demo = prepare(settings, 60, SUNDAY)
    assert demo.session == date(2025, 10, 10)
    clock = HomeClock(settings.home)
    assert clock().isoformat(timespec="minutes") == "2025-10-10T11:48+00:00"
    begin(settings.home, demo, 1e6, datetime.now(UTC))
    assert clock().date() == demo.session
    assert set(collected(Settings(home=settings.home))) == set(Archive(demo.recording).sources())


def test_the_recording_has_no_record_that_is_rejected_and_the_history_none_of_the_session(settings: Settings) -> None:
    demo = prepare(settings, 60, SUNDAY)
    recording = Archive(demo.recording)
    for source in recording.sources():
        for entry in recording.after(source, 0):
            for table in KINDS[source].tables:
                with payload_of(recording, entry).open() as stream:
                    assert not [c.rejects for c in KINDS[source].parse(stream, TABLES[table]).chunks if c.rejects]
    texts = [path.read_text("utf-8") for path in demo.history.glob("*.csv")]
    assert texts
    assert not any("\n10-10-2025" in text for text in texts)


def test_a_home_with_real_data_takes_no_demonstration_and_one_with_a_demonstration_no_real_data(
    settings: Settings, tmp_path: Path
) -> None:
    archive_of(settings.home).append("dxy_chart", b"{}", name="dxy_chart.json", at=SUNDAY)
    with pytest.raises(UsageError, match="real data"):
        prepare(settings, 60, SUNDAY)
    other = Settings(home=tmp_path / "other")
    require_none(other)
    prepare(other, 60, SUNDAY)
    with pytest.raises(UsageError, match="--demo"):
        require_none(other)


@pytest.mark.slow
@pytest.mark.xdist_group("up")
def test_the_tables_grow_without_a_launched_run(environment: dict[str, str]) -> None:  # noqa: F811
    """Fifteen minutes of a session in as many seconds; the history is loaded by the one run that there is."""
    up = run(environment, "up", "--demo", "--speed", "60", "--detach", "--json")
    assert up.returncode == 0, up.stderr
    try:

        def standing() -> dict:
            return answer(run(environment, "status", "--json"))

        until(lambda: "dxy_chart" in standing()["archive"], 60)
        first = standing()
        until(lambda: standing()["tables"]["b3_dxy_ticks"]["rows"] > first["tables"]["b3_dxy_ticks"]["rows"], 60)
        assert set(first["tables"]["b3_dxy_ticks"]) == {"rows", "newest", "age_s", "due", "fresh"}
        assert first["tables"]["b3_adjustments"]["fresh"] is True
        assert first["archive"]["dxy_chart"]["newest"]
        port = int(environment["B3_PORT_BASE"]) + 1
        runs = httpx2.post(f"http://{HOST}:{port}/graphql", json={"query": _RUNS}, trust_env=False).json()
        assert [r["jobName"] for r in runs["data"]["runsOrError"]["results"]] == ["migrate"]
    finally:
        run(environment, "down")
