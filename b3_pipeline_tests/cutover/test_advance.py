"""A step forward on real servers: refused by name while a gate is red, made at once when all are green."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from b3_pipeline import migration_log
from b3_pipeline.alerts.engine import Alert, State
from b3_pipeline.alerts.outbox import STATE
from b3_pipeline.cutover import advance as module
from b3_pipeline.cutover import evidence, journal, link, market, phases, switching_off
from b3_pipeline.cutover.advance import Unfinished, advance
from b3_pipeline.cutover.journal import CutoverBusy, JournalDamaged, Task
from b3_pipeline.cutover.market import ShadowDiffers
from b3_pipeline.cutover.rollback import rollback
from b3_pipeline.errors import UsageError
from b3_pipeline.loading.archived import archive_of, note_loaded
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA
from b3_pipeline.postgres import callers, mismatches
from b3_pipeline.postgres.callers import Caller
from b3_pipeline.postgres.flags import AGE_S, Flags, FlagsError, history
from b3_pipeline.quality import parity_report
from b3_pipeline.residents import HEALTH_AGENT
from b3_pipeline.shadow.writing import ShadowReport, refresh
from b3_pipeline_tests.cutover.conftest import BEFORE, CAME, NOW, Office

OLD_SHEET = Caller(NOW.date(), "10.0.0.5", "old-sheet/1", "/gamma", 3, NOW, NOW)


def red(done: module.Advanced) -> list[str]:
    return [gate.name for gate in done.red]


def test_all_the_way_when_every_gate_is_green(office: Office) -> None:
    link.follow(office.settings, "legacy")
    assert link.current(office.home) == office.legacy
    for was, to in (("legacy", "shadow"), ("shadow", "active"), ("active", "frozen")):
        office.phase(was)
        done = advance(office.desk(), why="agreed with the desk", who="ana")
        assert (done.red, done.phase, done.moved) == ([], to, True), done.red
        assert office.now() == to
        assert link.current(office.home) == (office.home / "shadow" if to in link.OURS else office.legacy)
        entry = history(office.dsn, 1)[0]
        assert (entry.value, entry.who, entry.why, entry.since) == (to, "ana", "agreed with the desk", NOW)
        assert journal.under_way(office.home, "market") is None
    assert Flags(office.home, office.dsn).current().is_on("shadow_files")
    shadow = {path.name: path.read_bytes() for path in (office.home / link.NAME).glob("*.*")}
    assert {name: shadow[name] for name in ("ultimo_dado.json", "gamma.json")} == {
        name: office.files()[name] for name in ("ultimo_dado.json", "gamma.json")
    }
    with pytest.raises(UsageError, match="none follows"):
        advance(office.desk())
    titles = [step["title"] for step in migration_log.steps(office.home)]
    assert sorted(titles) == sorted(
        f"The market data from {a} to {b}"
        for a, b in (("legacy", "shadow"), ("shadow", "active"), ("active", "frozen"))
    )


def late(office: Office) -> None:
    """A source's newest capture is of some sessions ago, and so are all others: a week has passed."""
    office.db.execute("alter table b3_gamma_levels drop partition list '2025-10-13'")
    office.db.wait_applied("b3_gamma_levels")


def waiting(office: Office) -> None:
    archive_of(office.home).append(GAMMA.name, b"{}", name=GAMMA.file, at=CAME)


def alert(office: Office) -> None:
    texts = {"kind": "check", "name": "x", "severity": "ERROR", "what": "x is red", "what_to_do": "", "link": "/"}
    given = Alert.model_validate(texts | dict.fromkeys(("since", "opened", "reminded", "last_seen"), NOW))
    (office.home / STATE).parent.mkdir()
    (office.home / STATE).write_text(State(alerts={given.key: given}).model_dump_json())


def mismatch(office: Office) -> None:
    mismatches.record(office.dsn, mismatches.Found(NOW, "gamma", b"1", b"2", [{"pointer": "", "legacy": 1, "ours": 2}]))


def different(office: Office) -> None:
    legacy = (office.legacy / CAPTURE.file).read_bytes()
    office.collect(CAPTURE.name, legacy.replace(b"09:00:32", b"09:00:33"), CAPTURE.file, CAME)


def silent(office: Office) -> None:
    archive = archive_of(office.home)
    entry = archive.newest(GAMMA.name)
    assert entry is not None
    path = archive.entry_path(entry)
    path.write_text(path.read_text().replace("2025-10-13T23:30", "2025-10-10T23:30"))


def called(office: Office) -> None:
    callers.add(office.dsn, [OLD_SHEET])


def changed(office: Office) -> None:
    path = office.legacy / "dxy_coleta.csv"
    path.write_text(path.read_text().replace("-0.39", "-0.38"))
    kept = parity_report.latest(office.home)
    assert kept is None


BREAKS: dict[str, Callable[[Office], object]] = {
    "parity": changed,
    "archive": waiting,
    "mismatches": mismatch,
    "comparisons": different,
    "alerts": alert,
    "legacy_files": silent,
    "callers": called,
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_red_gate_refuses_and_names_itself(office: Office, name: str) -> None:
    office.phase("active")
    BREAKS[name](office)
    done = advance(office.desk())
    assert red(done) == [name], [(gate.name, gate.evidence) for gate in done.red]
    assert (done.moved, done.phase, office.now()) == (False, "active", "active")
    [step] = migration_log.steps(office.home)
    assert (step["outcome"], step["counts"][name][:3]) == ("refused", "RED")
    assert {gate.name for gate in done.gates if gate.what_to_do} == {name}


def test_the_backup_must_be_there(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.phase("shadow")
    monkeypatch.setattr("b3_pipeline.backup.backups.newest_verified", lambda *_given: None)
    assert red(advance(office.desk())) == ["backup"]


def test_a_session_without_its_rows_and_a_table_that_is_late_refuse(office: Office) -> None:
    late(office)
    assert set(red(advance(office.desk()))) == {"parity", "last_session", "freshness"}


def test_a_table_that_is_not_as_contracted_refuses(office: Office) -> None:
    office.db.execute("alter table b3_dxy_ticks add column strange int")
    try:
        done = advance(office.desk())
    finally:
        office.db.execute("alter table b3_dxy_ticks drop column strange")
        office.db.wait_applied("b3_dxy_ticks")
    assert "schema" in red(done)
    assert "strange" in done.gates[0].evidence


def test_a_home_in_which_nothing_was_loaded_goes_nowhere(empty_office: Office) -> None:
    assert {"parity", "last_session", "freshness", "archive"} <= set(red(advance(empty_office.desk())))
    assert empty_office.now() == "legacy"


def test_a_gate_that_cannot_be_looked_at_is_red(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_given: object) -> None:
        raise RuntimeError("the place is away")

    office.phase("shadow")
    monkeypatch.setattr("b3_pipeline.backup.backups.newest_verified", broken)
    done = advance(office.desk())
    assert red(done) == ["backup"]
    assert "the place is away" in done.red[0].evidence


def test_a_dry_run_changes_nothing(office: Office) -> None:
    office.phase("shadow")
    before = [entry.value for entry in history(office.dsn)]
    done = advance(office.desk(), dry_run=True)
    assert (done.red, done.moved, done.to, office.now()) == ([], False, "active", "shadow")
    assert [entry.value for entry in history(office.dsn)] == before
    assert not (office.home / link.NAME).exists()
    assert migration_log.steps(office.home) == []


def test_an_override_needs_a_reason_and_is_logged_with_what_it_overrides(office: Office) -> None:
    office.phase("shadow")
    mismatch(office)
    with pytest.raises(UsageError, match="needs a reason"):
        advance(office.desk(), override=True)
    done = advance(office.desk(), override=True, why="seen by the desk", who="ana")
    assert (done.moved, office.now()) == (True, "active")
    entry = history(office.dsn, 1)[0]
    assert (entry.who, entry.why) == ("ana", "override of mismatches: seen by the desk")
    [step] = migration_log.steps(office.home)
    assert step["details"]["override"] is True
    assert step["why"] == entry.why


def test_an_old_report_does_not_count_and_one_of_this_hour_does(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance(office.desk(), dry_run=True)
    kept = parity_report.latest(office.home)
    assert kept is not None
    assert kept["ok"] is True
    monkeypatch.setattr(evidence, "validate", lambda *_: pytest.fail("it is fresh"))
    assert advance(office.desk(), dry_run=True).red == []
    parity_report.keep(office.home, {**kept, "at": (NOW - timedelta(hours=2)).isoformat()}, NOW)
    with pytest.raises(pytest.fail.Exception):
        advance(office.desk(), dry_run=True)


def test_our_own_look_at_a_legacy_route_is_no_caller(office: Office) -> None:
    office.phase("active")
    callers.add(office.dsn, [Caller(NOW.date(), "127.0.0.1", HEALTH_AGENT, "/status", 9, NOW, NOW)])
    assert advance(office.desk(), dry_run=True).red == []


def test_a_shadow_that_differs_stops_the_step_before_readers_see_it(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.phase("shadow")
    monkeypatch.setattr(market, "refresh", lambda *_: [])
    with pytest.raises(ShadowDiffers, match=r"ajustes_b3\.csv"):
        advance(office.desk())
    assert office.now() == "shadow"
    assert link.current(office.home) is None
    monkeypatch.undo()


def test_shadow_files_are_written_when_every_process_knows_and_once_more_when_readers_are_there(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.phase("shadow")
    did: list[object] = []

    def refreshed(*given: Any) -> list[ShadowReport]:
        did.append(f"refreshed, link {link.current(office.home) == office.home / 'shadow'}")
        return refresh(*given)

    monkeypatch.setattr(market, "refresh", refreshed)
    assert advance(office.desk(sleep=did.append)).moved
    assert did == [AGE_S, "refreshed, link False", "refreshed, link True"]


def test_shadow_files_that_cannot_be_written_again_are_by_the_same_command(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.phase("shadow")

    def refreshed(*given: Any) -> list[ShadowReport]:
        there = link.current(office.home) is not None
        return [ShadowReport("gamma.json", "failed", reason="no space")] if there else refresh(*given)

    with monkeypatch.context() as patch:
        patch.setattr(market, "refresh", refreshed)
        with pytest.raises(ShadowDiffers, match=r"gamma\.json: no space.* goes on"):
            advance(office.desk())
    done = advance(office.desk())
    assert (done.phase, done.moved, journal.under_way(office.home, "market")) == ("active", True, None)


def unlike(office: Office) -> None:
    path = office.legacy / GAMMA.file
    office.collect(GAMMA.name, path.read_bytes(), GAMMA.file, CAME)
    path.write_bytes(path.read_bytes().replace(b"{", b'{"more": 1, ', 1))


def without_capture(office: Office) -> None:
    (office.legacy / CAPTURE.file).unlink()


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (lambda _office: None, "No open mismatches of payloads; 3 of 3 legacy routes"),
        (unlike, "1 open mismatch of payloads; 3 of 3 legacy routes"),
        (without_capture, "; 2 of 3 legacy routes"),
    ],
)
def test_though_nobody_calls_both_sides_are_asked_for_each_legacy_route(
    office: Office, monkeypatch: pytest.MonkeyPatch, breaks: Callable[[Office], object], said: str
) -> None:
    monkeypatch.setattr("b3_pipeline.api.switch.DIFFERENT_AFTER_S", 0.0)
    breaks(office)
    [gate] = evidence.look(office.desk(), phases.Step("shadow", "active", ("mismatches",)))
    assert said in gate.evidence
    assert gate.ok is said.startswith("No open")


def test_without_a_legacy_side_nothing_was_compared(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("B3_LEGACY_DIR")
    [gate] = evidence.look(office.desk(), phases.Step("shadow", "active", ("mismatches",)))
    assert (gate.ok, "0 of 3 legacy routes" in gate.evidence) == (False, True)


def test_a_torn_capture_of_the_session_is_named_and_the_gate_is_green(office: Office) -> None:
    office.phase("shadow")
    archive = archive_of(office.home)
    entry = archive.append(CAPTURE.name, b'{"timestamp": "2025', name=CAPTURE.file, at=CAME)
    assert entry is not None
    [gate] = evidence.look(office.desk(), phases.Step("shadow", "active", ("comparisons",)))
    assert gate.ok, gate.evidence
    assert "Torn: ultimo_dado.json of 23:30:00 UTC." in gate.evidence


def test_one_process_at_a_time_and_none_while_a_rollback_has_not_ended(office: Office) -> None:
    with journal.alone(office.home, "market") as file:
        with pytest.raises(CutoverBusy):
            advance(office.desk())
        journal.keep(file, Task("rollback", "active", "legacy", NOW.isoformat(), "ana", "x"))
    with pytest.raises(Unfinished, match="b3 cutover rollback"):
        advance(office.desk())
    file.write_text("{")
    with pytest.raises(JournalDamaged, match="flags history"):
        advance(office.desk())


def test_the_old_stacks_parts_are_listed_with_what_is_known_of_them(
    office: Office, httpserver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parts() -> dict[str, str]:
        return {part.name: part.state for part in switching_off.checklist(office.desk())}

    unknown = {"json_server": "unknown", "dashboard": "unknown", "proxies": "unknown"}
    long_ago = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
    assert {name: parts()[name] for name in unknown} == unknown
    (office.legacy / "gamma.json").touch()
    assert parts()["collectors"] == "running"
    for path in office.legacy.rglob("*"):
        import os

        os.utime(path, (long_ago, long_ago))
    assert parts()["collectors"] == "off"
    httpserver.expect_request("/status").respond_with_json({})
    monkeypatch.setenv("B3_LEGACY_URL", httpserver.url_for("/").rstrip("/"))
    assert parts()["json_server"] == "running"
    monkeypatch.setenv("B3_LEGACY_URL", "http://127.0.0.1:9")
    assert parts()["json_server"] == "off"
    office.phase("active")
    assert (parts()["dashboard"], parts()["proxies"]) == ("not used", "not used")
    called(office)
    found = {part.name: part for part in switching_off.checklist(office.desk())}
    assert "10.0.0.5 (old-sheet/1)" in found["dashboard"].evidence


def test_evidence_of_the_gates_is_the_machines_document(office: Office) -> None:
    found = evidence.look(office.desk(), phases.STEPS["market"]["legacy"])
    told = json.loads(json.dumps(evidence.document("legacy", found)))
    assert told["phase"] == "legacy"
    assert [gate["name"] for gate in told["gates"]] == ["schema", "parity", "last_session", "freshness", "archive"]
    assert all(gate["ok"] and gate["evidence"] for gate in told["gates"]), told


def test_only_full_sessions_of_this_phase_count(office: Office) -> None:
    office.phase("active", at=BEFORE + timedelta(hours=3))
    assert red(advance(office.desk(), dry_run=True)) == ["comparisons", "legacy_files"]


def test_what_waits_is_loaded_and_then_no_longer_red(office: Office) -> None:
    waiting(office)
    assert "archive" in red(advance(office.desk(), dry_run=True))
    note_loaded(archive_of(office.home), GAMMA.name, archive_of(office.home).last(GAMMA.name))
    assert "archive" not in red(advance(office.desk(), dry_run=True))


def test_the_log_is_a_file_that_the_step_names(office: Office) -> None:
    done = advance(office.desk(), why="as agreed")
    assert isinstance(done.log, Path)
    assert "as agreed" in done.log.read_text("utf-8")
    assert "`b3 cutover rollback`" in done.log.read_text("utf-8")


def test_without_postgresql_nobody_can_say_which_phase_stands(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.phase("active")
    assert office.now() == "active"
    monkeypatch.setenv("B3_POSTGRES_DSN", "postgresql://u:hunter2@127.0.0.1:1/x")
    with pytest.raises(FlagsError, match="which phase stands"):
        advance(office.desk())
    with pytest.raises(FlagsError, match="which phase stands"):
        rollback(office.desk())
