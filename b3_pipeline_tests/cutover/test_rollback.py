"""The way back on real servers: readers first, the legacy files get what they lack, and forward again changes nothing."""

from __future__ import annotations

import json
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from b3_pipeline import migration_log
from b3_pipeline.cutover import journal, link, replaying
from b3_pipeline.cutover.advance import advance
from b3_pipeline.cutover.replaying import CollectorsWrite, stand_in
from b3_pipeline.cutover.rollback import CollectorsRun, FilesWait, ReplayDiffers, RolledBack, rollback
from b3_pipeline.errors import B3Error
from b3_pipeline.loading.payloads import survey
from b3_pipeline.parsing.capture import capture_moment
from b3_pipeline.places import backups_of
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sample_payloads import gamma_levels, session_samples, settlement_report
from b3_pipeline.sessions import to_utc
from b3_pipeline.shadow.writing import past_name
from b3_pipeline_tests.cutover.conftest import Office, sha256

SESSION = date(2025, 10, 13)
ADJUSTMENTS, DXY = "ajustes_b3.csv", "dxy_coleta.csv"


def live(office: Office, session: date = SESSION) -> None:
    """What a session brings at last from every live source; its legacy documents are not among them."""
    newest = {sample.source: sample for sample in session_samples(session)}
    for source, sample in newest.items():
        if source not in ("ultimo_dado", "gamma"):
            office.collect(source, sample.data, sample.name, sample.at)


def back(office: Office, **more: object) -> RolledBack:
    return rollback(office.desk(), collectors_stopped=True, **more)  # pyright: ignore[reportArgumentType]


@contextmanager
def changes_only(office: Office, *names: str) -> Iterator[None]:
    before = office.files()
    yield
    after = office.files()
    assert {name for name in after if after[name] != before.get(name)} == set(names)
    assert before.keys() <= after.keys()


@pytest.mark.parametrize("phase", ["active", "frozen"])
def test_what_was_written_since_is_in_the_legacy_files_and_parity_is_proven(office: Office, phase: str) -> None:
    office.phase(phase)
    link.follow(office.settings, phase)
    live(office)
    told: list[RolledBack] = []
    surface = "superficie_volatilidade_b3.csv"
    with changes_only(office, ADJUSTMENTS, "indicadores_b3.csv", surface):
        done = back(office, why="the desk asks for it", who="ana", announce=told.append)
    assert (done.was, done.phase, office.now()) == (phase, "legacy", "legacy")
    assert link.current(office.home) == office.legacy
    [plan] = told
    assert plan.phase == phase  # shown before anything was done
    assert plan.stays == done.stays
    assert done.stays[ADJUSTMENTS]["beyond"] > 100
    assert done.stays[DXY]["beyond"] > 100
    assert {
        name: numbers["missing"] + numbers["extra"] + numbers["different"] for name, numbers in done.proven.items()
    } == dict.fromkeys(done.proven, 0)
    assert {"b3_adjustments legacy_csv", "b3_dxy_ticks legacy_csv", "b3_captures legacy_capture"} <= done.proven.keys()
    text = (office.legacy / ADJUSTMENTS).read_text("utf-8")
    assert text.splitlines()[-1].startswith("13-10-2025,19:30:00,X25,")
    assert "@" not in text
    assert journal.under_way(office.home, "market") is None


def test_of_shadow_only_phase_and_link_go_back(office: Office) -> None:
    office.phase("shadow")
    live(office)
    with changes_only(office):
        done = rollback(office.desk())
    assert (done.was, office.now(), done.parts, done.backup) == ("shadow", "legacy", [], {})
    assert done.log is not None


def test_in_phase_legacy_there_is_nothing_to_go_back_from(office: Office) -> None:
    with changes_only(office):
        done = rollback(office.desk())
    assert (done.was, done.phase, done.log) == ("legacy", "legacy", None)
    assert migration_log.steps(office.home) == []


def test_the_folder_as_it_was_is_saved_first_with_its_checksum(office: Office, tmp_path: Path) -> None:
    office.phase("active")
    live(office)
    before = office.files()
    done = back(office)
    place = backups_of(office.settings)
    assert place.sha256(done.backup["name"]) == done.backup["sha256"]
    place.get(done.backup["name"], tmp_path / "saved.tar.gz")
    with tarfile.open(tmp_path / "saved.tar.gz") as tar:
        saved = {entry.name: tar.extractfile(entry) for entry in tar if entry.isfile()}
        saved = {name: content.read() for name, content in saved.items() if content}
    assert saved == before
    [step] = migration_log.steps(office.home)
    assert step["checksums"] == {done.backup["name"]: done.backup["sha256"]}
    assert step["kind"] == "rollback"
    assert "collectors" in step["details"]


def test_a_dry_run_only_says_what_would_be(office: Office) -> None:
    office.phase("active")
    live(office)
    with changes_only(office):
        done = rollback(office.desk(), dry_run=True)
    assert office.now() == "active"
    assert {part.file: part.rows for part in done.parts}[ADJUSTMENTS] == 3
    assert done.stays[ADJUSTMENTS]["beyond"] > 100
    assert migration_log.steps(office.home) == []
    assert not (office.home / "backups").exists()


def test_readers_are_back_at_once_and_nothing_is_written_while_collectors_may_run(office: Office) -> None:
    office.phase("active")
    link.follow(office.settings, "active")
    live(office)
    (office.legacy / "gamma.json").touch()
    with changes_only(office), pytest.raises(CollectorsRun, match="--collectors-stopped"):
        rollback(office.desk())
    assert office.now() == "legacy"
    assert link.current(office.home) == office.legacy
    task = journal.under_way(office.home, "market")
    assert task is not None
    assert task.phase == "active"
    done = back(office)  # the same command does the rest
    assert (done.was, done.log is not None) == ("active", True)
    assert done.proven


def long_quiet(office: Office) -> None:
    for path in office.legacy.rglob("*"):
        os.utime(path, (time.time() - 3600, time.time() - 3600))


def test_files_that_have_not_changed_for_long_may_have_a_collector_still(office: Office) -> None:
    office.phase("active")
    live(office)
    long_quiet(office)
    with changes_only(office), pytest.raises(CollectorsRun, match="--collectors-stopped"):
        rollback(office.desk())
    done = back(office)
    assert done.log is not None
    assert "the operator says so, and no file has changed for 60 minutes" in done.log.read_text("utf-8")


def test_where_nothing_is_to_be_written_nobody_has_to_stop(office: Office) -> None:
    office.phase("active")
    with changes_only(office):
        done = rollback(office.desk())
    assert (office.now(), done.log is not None) == ("legacy", True)
    assert done.proven


def test_who_says_that_collectors_are_stopped_is_not_believed_when_a_file_changes(office: Office) -> None:
    office.phase("active")
    live(office)
    with pytest.raises(CollectorsRun, match=r"gamma\.json changed"):
        back(office, announce=lambda _plan: (office.legacy / "gamma.json").touch())
    assert office.now() == "legacy"
    assert back(office).proven


def test_a_file_that_a_collector_changes_meanwhile_is_not_overwritten(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the moment at which its draft is on the disk; and then nobody takes them for stopped any more."""
    office.phase("active")
    live(office)
    path = office.legacy / ADJUSTMENTS

    def chown(draft: Path, *_: int) -> None:
        if ADJUSTMENTS in draft.name:
            path.write_bytes(path.read_bytes() + b"\n")

    with monkeypatch.context() as patch:
        patch.setattr(replaying.os, "chown", chown)
        with pytest.raises(CollectorsWrite, match="Stop them"):
            back(office)
    assert path.read_bytes().endswith(b"\n\n")
    assert list(office.legacy.glob(".*")) == []
    with pytest.raises(CollectorsRun, match="--collectors-stopped"):
        rollback(office.desk())
    assert back(office).proven


def unreadable(office: Office, _patch: pytest.MonkeyPatch) -> dict[str, Any]:
    (office.legacy / DXY).write_text("<html>")
    return {}


def folder_away(office: Office, _patch: pytest.MonkeyPatch) -> dict[str, Any]:
    office.legacy.rename(office.legacy.with_name("away"))
    return {}


def questdb_away(office: Office, _patch: pytest.MonkeyPatch) -> dict[str, Any]:
    nobody = replace(office.db.address, http_url="http://127.0.0.1:1", pg_host="127.0.0.1", pg_port=1)
    return {"db": QuestDB(nobody)}


def a_defect(_office: Office, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    def broken(*_: object) -> None:
        raise UnicodeError("a defect")

    patch.setattr(replaying, "plan", broken)
    return {}


@pytest.mark.parametrize(
    ("breaks", "said"),
    [(unreadable, DXY), (folder_away, "is not there"), (questdb_away, "QuestDB"), (a_defect, "report it")],
)
def test_readers_are_back_even_where_nobody_can_say_what_the_files_lack(
    office: Office, monkeypatch: pytest.MonkeyPatch, breaks: Callable[..., dict[str, Any]], said: str
) -> None:
    office.phase("active")
    link.follow(office.settings, "active")
    live(office)
    dxy = (office.legacy / DXY).read_bytes()
    with monkeypatch.context() as patch:
        more = breaks(office, patch)
        with pytest.raises(FilesWait, match="Readers are back") as raised:
            rollback(office.desk(**more), collectors_stopped=True)
    assert said in str(raised.value)
    assert "`b3 cutover rollback --collectors-stopped` does the rest" in str(raised.value)
    assert office.now() == "legacy"
    assert link.current(office.home) == office.legacy
    if not office.legacy.exists():
        office.legacy.with_name("away").rename(office.legacy)
    (office.legacy / DXY).write_bytes(dxy)
    done = back(office)
    assert (done.was, done.log is not None, bool(done.proven)) == ("active", True, True)


@pytest.mark.parametrize("breaks", [unreadable, folder_away])
def test_a_dry_run_that_finds_out_nothing_changes_nothing(
    office: Office, monkeypatch: pytest.MonkeyPatch, breaks: Callable[..., dict[str, Any]]
) -> None:
    office.phase("active")
    breaks(office, monkeypatch)
    with pytest.raises(B3Error):
        rollback(office.desk(), dry_run=True)
    assert office.now() == "active"
    assert journal.under_way(office.home, "market") is None


def test_without_a_legacy_folder_the_phase_goes_back_and_it_is_said_that_files_stay(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.phase("active")
    link.follow(office.settings, "active")
    monkeypatch.delenv("B3_LEGACY_DIR")
    with pytest.raises(FilesWait, match="the link leads where it did") as raised:
        back(office)
    assert "Set B3_LEGACY_DIR" in str(raised.value)
    assert office.now() == "legacy"
    monkeypatch.setenv("B3_LEGACY_DIR", str(office.legacy))
    assert back(office).proven
    assert link.current(office.home) == office.legacy


def test_how_long_readers_waited_is_of_the_first_call_from_its_beginning(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.phase("active")
    live(office)
    seconds = iter(range(0, 1000, 7))
    clock = SimpleNamespace(monotonic=lambda: float(next(seconds)), time=time.time)
    monkeypatch.setattr("b3_pipeline.cutover.rollback.time", clock)
    with pytest.raises(CollectorsRun):
        rollback(office.desk())
    task = journal.under_way(office.home, "market")
    assert task is not None
    first = task.notes["readers_s"]
    assert first == 7
    assert back(office).readers_s == first


@pytest.mark.parametrize("damaged", [b"", b'{"timestamp": "2025-10-'])
def test_a_damaged_older_capture_is_put_right_by_what_is_stored(office: Office, damaged: bytes) -> None:
    office.phase("active")
    path = older(office)
    good = path.read_bytes()
    path.write_bytes(damaged)
    done = back(office)
    assert path.read_bytes() == good
    assert done.proven


def test_an_older_captures_name_that_another_one_has_is_left_to_it(office: Office) -> None:
    office.phase("active")
    path = older(office)
    good = path.read_bytes()
    another = good.replace(b"09:00:32", b"09:00:31")
    assert another != good
    path.write_bytes(another)
    back(office)
    assert path.read_bytes() == another
    assert path.with_stem(f"{path.stem}_2").read_bytes() == good


def older(office: Office) -> Path:
    """An older capture that is stored, and lies among the older ones under its own name."""
    current = office.legacy / "ultimo_dado.json"
    data = current.read_bytes().replace(b"2025-10-13T09:00:32", b"2025-10-10T09:00:32")
    moment = capture_moment(data)
    assert moment is not None
    path = office.legacy / past_name(moment)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    office.load_folder()
    return path


def test_a_folder_that_has_lost_its_files_gets_them_back_from_the_tables(office: Office) -> None:
    office.phase("frozen")
    before = office.files()
    for path in (office.legacy / ADJUSTMENTS, office.legacy / "gamma.json", office.legacy / "ultimo_dado.json"):
        path.unlink()
    done = back(office)
    after = office.files()
    assert {name: after[name] for name in ("gamma.json", "ultimo_dado.json")} == {
        name: before[name] for name in ("gamma.json", "ultimo_dado.json")
    }
    assert done.proven["b3_adjustments legacy_csv"]["source_keys"] == 582


def test_sessions_without_a_legacy_capture_get_the_composed_one_as_the_collector_writes_it(office: Office) -> None:
    office.phase("frozen")
    live(office)
    office.compose(datetime(2025, 10, 13, 23, tzinfo=UTC))  # the legacy collector was there that morning
    first = office.compose(datetime(2025, 10, 14, 10, tzinfo=UTC))
    second = office.compose(datetime(2025, 10, 14, 10, 30, tzinfo=UTC))
    assert b"data_ajuste" in second
    done = back(office)
    assert (office.legacy / "ultimo_dado.json").read_bytes() == stand_in(second)
    names = {name for name in office.files() if name.startswith("historico/")}
    assert names == {
        f"historico/ultimo_dado_{name}.json" for name in ("20251010_093430", "20251013_090032", "20251014_073000")
    }
    assert b"data_ajuste" not in office.files()["ultimo_dado.json"]
    assert capture_moment(first) not in {
        capture_moment(data) for name, data in office.files().items() if "ultimo_dado" in name
    }
    assert done.stays["ultimo_dado.json"]["beyond"] == 2
    assert done.proven["b3_captures legacy_capture"]["source_keys"] == 4


def test_forward_again_our_own_lines_are_duplicates_and_a_second_way_back_changes_nothing(office: Office) -> None:
    office.phase("active")
    live(office)
    office.compose(datetime(2025, 10, 14, 10, tzinfo=UTC))
    back(office)
    revisions = office.db.scalar("select count() from b3_revisions")
    first = office.files()
    assert {report.outcome for report in office.load_folder()} == {"unchanged"}
    for path in office.legacy.rglob("*.json"):  # as the watcher sees them, too
        office.collect(
            "gamma" if path.name == "gamma.json" else "ultimo_dado",
            path.read_bytes(),
            path.name,
            datetime(2025, 10, 14, 10, 50, tzinfo=UTC),
        )
    assert office.db.scalar("select count() from b3_revisions") == revisions
    done = advance(office.desk())
    assert (done.red, office.now()) == ([], "shadow")
    office.phase("active")
    again = back(office)
    assert {part.file: (part.rows, part.added, part.filled) for part in again.parts} == dict.fromkeys(
        (part.file for part in again.parts), (0, 0, 0)
    )
    assert office.files() == first
    live(office, date(2025, 10, 10))
    office.phase("active")
    assert {part.file: part.rows for part in back(office).parts}[ADJUSTMENTS] == 3
    assert (office.legacy / ADJUSTMENTS).read_text().count(",19:30:00,") == 2


def test_newer_gamma_levels_go_back_and_older_ones_stay_behind(office: Office) -> None:
    office.phase("active")
    moments = [to_utc(datetime(2025, 10, 14, 7, minute)).replace(tzinfo=UTC) for minute in (0, 15)]
    for moment in moments:
        office.collect("gamma_levels", gamma_levels(moment), "gamma_levels.json", moment)
    done = back(office)
    assert office.files()["gamma.json"] == gamma_levels(moments[1])
    assert done.stays["gamma.json"]["beyond"] == 2


def test_a_corrected_report_does_not_take_the_place_of_a_line_that_stands(office: Office) -> None:
    office.phase("active")
    live(office)
    back(office)
    before = (office.legacy / ADJUSTMENTS).read_bytes()
    office.phase("active")
    at = datetime(2025, 10, 14, 10, tzinfo=UTC)
    office.collect("settlement_report", settlement_report(SESSION, seed=1), f"SPRD{SESSION:%y%m%d}.zip", at)
    done = back(office)
    assert (office.legacy / ADJUSTMENTS).read_bytes() == before
    assert done.stays[ADJUSTMENTS]["stands"] == 3  # and that is said, before anything is done


def test_a_full_disk_stops_it_before_anything_is_written(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.phase("active")
    live(office)
    monkeypatch.setenv("B3_MIN_FREE_DISK_MB", str(1 << 40))
    with changes_only(office), pytest.raises(B3Error, match="are free"):
        back(office)
    monkeypatch.setenv("B3_MIN_FREE_DISK_MB", "0")
    assert back(office).proven


def test_what_does_not_come_back_as_it_was_stored_is_an_error_and_the_next_call_goes_on(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.phase("active")
    live(office)
    monkeypatch.setattr(replaying, "_put", lambda *_: None)
    with pytest.raises(ReplayDiffers, match="lacks"):
        back(office)
    monkeypatch.undo()
    monkeypatch.setenv("B3_LEGACY_DIR", str(office.legacy))


def test_the_collectors_may_go_on_in_the_files_as_they_could_before(office: Office) -> None:
    office.phase("active")
    live(office)
    (office.legacy / ADJUSTMENTS).chmod(0o664)
    back(office)
    assert (office.legacy / ADJUSTMENTS).stat().st_mode & 0o777 == 0o664
    assert [path.name for path in office.legacy.glob(".*")] == []
    assert {found.outcome for found in survey(office.legacy)} == {None}


def test_the_same_folder_is_one_backup(office: Office) -> None:
    office.phase("active")
    first = back(office).backup
    office.phase("active")
    assert back(office).backup == first
    assert len(backups_of(office.settings).names("legacy")) == 1


def test_a_stand_in_says_what_the_composed_one_does(office: Office) -> None:
    composed = office.compose(datetime(2025, 10, 14, 10, tzinfo=UTC))
    made = stand_in(composed)
    assert made is not None
    given, stands = json.loads(composed), json.loads(made)
    for name in ("DI1", "DDI", "DOL"):
        given[name].pop("data_ajuste")
    assert stands == given
    assert list(stands) == list(given)
    assert sha256(made) != sha256(composed)
    assert timedelta() < datetime.now(UTC) - datetime(2025, 10, 14, tzinfo=UTC)
