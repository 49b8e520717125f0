"""`b3 up --demo`: a synthetic session is replayed, and the tables grow by the sensors alone."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from b3_pipeline import demo as demo_module
from b3_pipeline.clock import HomeClock
from b3_pipeline.demo import begin, is_over, prepare, require_none
from b3_pipeline.errors import UsageError
from b3_pipeline.loading.archived import KINDS, archive_of, payload_of
from b3_pipeline.loading.ledger import Ledger, Load
from b3_pipeline.ports import HOST
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.services import Engines
from b3_pipeline.settings import Settings
from b3_pipeline.sources.archive import Archive
from b3_pipeline.sources.catalog import collected
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.browser import chromium
from b3_pipeline_tests.cli.commands import b3
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


def loads(db: QuestDB, *, some: bool) -> None:
    """Gives the ledger a load, or leaves it empty."""
    if some:
        ledger = Ledger(db)
        now = SUNDAY.replace(tzinfo=None)
        ledger.write(Load(now, ledger.new_id(), "run", "b3_dxy_ticks", "legacy_csv", "dxy_coleta.csv", "0" * 64))
        db.wait_applied("b3_loads")


@pytest.mark.parametrize("some", [True, False])
def test_tables_into_which_something_was_loaded_take_no_demonstration(
    settings: Settings, db: QuestDB, monkeypatch: pytest.MonkeyPatch, some: bool
) -> None:
    loads(db, some=some)
    monkeypatch.setattr(demo_module, "engines", lambda _settings: nullcontext(Engines(db.address, "")))
    settings.folder("questdb")
    if some:
        with pytest.raises(UsageError, match="real data"):
            prepare(settings, 60, SUNDAY)
        assert not (settings.home / demo_module.FOLDER).exists()
        require_none(settings)
    else:
        prepare(settings, 60, SUNDAY)


def test_a_demonstration_goes_on_although_it_has_loaded_its_own_history(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(settings, 60, SUNDAY)
    settings.folder("questdb")
    monkeypatch.setattr(demo_module, "engines", lambda _settings: pytest.fail("nobody has to be asked"))
    assert prepare(settings, 60, SUNDAY) == first


def test_somebodys_own_server_takes_no_demonstration(bare_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B3_HOME", str(bare_home))
    monkeypatch.setenv("B3_QUESTDB_URL", "http://user:hidden@127.0.0.1:9?pg_port=8")
    failed = b3("up", "--demo", code=2).output
    assert "B3_QUESTDB_URL" in failed
    assert "hidden" not in failed
    assert not (bare_home / demo_module.FOLDER).exists()


def test_a_demonstrations_home_takes_no_data_by_hand(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = prepare(settings, 60, SUNDAY)
    (tmp_path / "SPRD251010.zip").touch()
    monkeypatch.setenv("B3_HOME", str(settings.home))
    for command in (["migrate", "--legacy", demo.history], ["settlements", tmp_path / "SPRD251010.zip"]):
        assert "demonstration" in b3(*command, code=2).output
    assert not (settings.home / "questdb").exists()


def test_a_demonstration_that_is_over_stays_so_and_one_that_is_not_goes_on(settings: Settings) -> None:
    demo = prepare(settings, 60, SUNDAY)
    assert not is_over(settings.home, demo)
    recording = Archive(demo.recording)
    newest = max((e for s in recording.sources() if (e := recording.newest(s))), key=lambda e: e.at)
    archive_of(settings.home).append(newest.source, b"{}", name=newest.name, at=newest.at)
    for real in (SUNDAY, SUNDAY + timedelta(days=7)):
        assert prepare(settings, 60, real) == demo
        assert is_over(settings.home, demo)


@pytest.mark.slow
@pytest.mark.xdist_group("up")
def test_the_tables_grow_without_a_launched_run(environment: dict[str, str]) -> None:  # noqa: F811
    """Fifteen minutes of a session in as many seconds; history and ideas are loaded by the only runs that there are."""
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
        assert [r["jobName"] for r in runs["data"]["runsOrError"]["results"]] == ["lowdb", "migrate"]
        board = httpx2.get(f"http://{HOST}:{environment['B3_PORT_BASE']}/ideias", trust_env=False).text
        assert "Alerta quando a coleta para" in board
        three_panels_change(f"http://{HOST}:{environment['B3_PORT_BASE']}/")
    finally:
        run(environment, "down")


#: What a panel shows: its table, of which the charts are drawn, or its figures.
_PANELS = """() => Object.fromEntries([...document.querySelectorAll('section[id]')].map((panel) => [panel.id,
  [...panel.querySelectorAll('tbody, [data-flash]')].map((e) => e.textContent).join('|')]))"""


def three_panels_change(url: str) -> None:
    """Within two minutes and without anybody's hand; what ages by the second alone does not count."""
    with chromium() as browser:
        page = browser.new_page()
        page.goto(url)
        page.evaluate(f"() => {{ window.opened = true; window.before = ({_PANELS})(); }}")
        changed = f"(() => {{ const now = ({_PANELS})(); return Object.keys(now).filter((id) => id !== 'qualidade' && now[id] !== window.before[id]); }})()"
        page.wait_for_function(f"() => window.opened && {changed}.length >= 3", timeout=120_000)
        print("panels that changed by themselves:", page.evaluate(changed))
