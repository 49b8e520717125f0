"""Backups are made of a running home, while loads go on, and by processes that die at any step."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from b3_pipeline.backup import creating
from b3_pipeline.backup.backups import MANIFEST, BackupBusy, alone, backups, find, newest_verified, note_verified
from b3_pipeline.backup.creating import STEPS, create
from b3_pipeline.backup.packing import Content, files_in, unpack
from b3_pipeline.backup.throwaway import FOLDER, free_ports, questdb_in
from b3_pipeline.backup.tidying import release_checkpoint
from b3_pipeline.backup.verifying import verify
from b3_pipeline.doctor import examine
from b3_pipeline.home import DiskFull
from b3_pipeline.loading.archived import archive_of, loaded_upto, note_loaded
from b3_pipeline.loading.load import Loader
from b3_pipeline.loading.locks import holding
from b3_pipeline.places import backups_of
from b3_pipeline.questdb.checkpoint import in_progress
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.settings import Ports, Settings
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.backup.conftest import Home, home_with_history
from b3_pipeline_tests.faults import some
from b3_pipeline_tests.loading.ticks import NOW, TICKS, Tick, payload
from b3_pipeline_tests.quality.conftest import Desk

pytestmark = [pytest.mark.xdist_group("backup"), pytest.mark.slow]

SIGNALS = TABLES["tp_capital_signals"]


@pytest.fixture
def place_of(kept: Home, tmp_path: Path) -> Settings:
    """The settings of the home, its backups in a place of the test's that keeps one only."""
    return keeping_one(tmp_path / "backups")


def keeping_one(where: Path) -> Settings:
    keeps: dict[str, Any] = {"backups_daily": 1, "backups_weekly": 0, "backups_monthly": 0}
    return Settings(backups_url=str(where), **keeps)


@pytest.fixture
def busy(shared: Path) -> Iterator[Home]:
    """A home of the test's own: what is written into it stays there."""
    with home_with_history(shared) as home:
        yield home


def left(kept: Home, where: Path) -> list[str]:
    """What is there that belongs to no complete backup."""
    scratch = [path for path in (kept.folder / FOLDER).iterdir() if path.is_dir()]
    half = [folder for folder in where.iterdir() if not (folder / "manifest.json").exists()]
    return [path.name for path in (*scratch, *half)]


def test_a_backup_has_what_the_home_has_and_no_secret_and_is_proven_by_restoring_it(
    kept: Home, place_of: Settings, tmp_path: Path
) -> None:
    made = create(place_of, kept.servers)
    manifest = made.manifest
    with QuestDB(kept.servers.questdb) as db:
        for name, state in manifest.tables.items():
            assert state.rows == db.scalar(named("select count() from {t}", t=name))
        assert not in_progress(db)
    assert manifest.tables["b3_adjustments"].rows == 582
    assert manifest.forms == ("snapshot", "parquet")
    assert {"settings", "archive", "quarantine", "postgres", "questdb"} <= set(manifest.parts)
    assert "secrets/postgres" in manifest.secrets

    secrets = [path.read_bytes().strip() for path in (kept.folder / "secrets").iterdir()] + [b"very-secret"]
    folder = tmp_path / "backups" / made.id
    for packed in sorted(folder.glob("*.tar.zst")):
        unpack(packed, tmp_path / "unpacked")
    for file in (*files_in(folder), *files_in(tmp_path / "unpacked")):
        content = file.read_bytes()
        assert not any(secret in content for secret in secrets), file

    where = backups_of(place_of)
    assert newest_verified(where) is None
    verdict = verify(place_of, "latest")
    assert verdict.problems == ()
    assert newest_verified(where) == find(where, made.id, made.manifest.home)
    assert left(kept, tmp_path / "backups") == []


@contextmanager
def going_on(*works: Callable[[int], None]) -> Iterator[None]:
    """Threads that do their work again and again, with 0, 1, 2 …, until the block ends; each has done it by then."""
    over, failed = threading.Event(), list[BaseException]()

    def again(work: Callable[[int], None], begun: threading.Event) -> None:
        number = 0
        try:
            while not over.is_set():
                work(number)
                number += 1
                begun.set()
        except BaseException as error:
            failed.append(error)
            begun.set()

    with ExitStack() as stack:
        for work in works:
            begun = threading.Event()
            thread = threading.Thread(target=again, args=(work, begun))
            thread.start()
            stack.callback(thread.join)
            stack.callback(over.set)
            assert begun.wait(60)
        yield
    assert not failed, failed


def test_a_backup_taken_while_others_write_is_one_moment_in_which_every_load_is_whole(
    busy: Home, tmp_path: Path
) -> None:
    first, second = QuestDB(busy.servers.questdb), QuestDB(busy.servers.questdb)

    def load(number: int) -> None:
        ticks = [Tick(number * 1_000 + minute, "dxy_08h50", minute / 1_000) for minute in range(400)]
        made = payload(tmp_path, *ticks, chunk=50)
        report = Loader(first, busy.folder, lambda: NOW, "meanwhile", limit=100).load(made, TICKS)
        assert report.counted.counts["loaded"] == 400

    def write_past_locks(number: int) -> None:
        """Into a partition that is not the newest, which the server then writes anew."""
        at = datetime(2025, 9, 1 + number % 5) + timedelta(seconds=number)
        rows = [
            {"ts": at + timedelta(microseconds=n), "channel": "c", "signal_type": "Day Trade", "asset": "A"}
            for n in range(9)
        ]
        second.send(SIGNALS.name, pa.Table.from_pylist(rows, SIGNALS.arrow_schema()))

    try:
        with going_on(load, write_past_locks):
            made = create(keeping_one(tmp_path / "backups"), busy.servers)
        home = tmp_path / "opened"
        unpack(tmp_path / "backups" / made.id / "questdb.tar.zst", home)
        with questdb_in(home, free_ports()) as copied:
            desk = Desk(copied, busy.folder, busy.legacy)
            copied.wait_applied(SIGNALS.name)
            assert made.manifest.tables[TICKS.name].rows == copied.scalar("select count() from b3_dxy_ticks") > 0
            assert made.manifest.tables[TICKS.name].rows % 400 == 0
            assert made.manifest.tables[SIGNALS.name].rows == copied.scalar("select count() from tp_capital_signals")
            assert copied.scalar("select count() from b3_loads where outcome = 'started'") == 0
            assert [
                name for _table, name, _finding in desk.red(TICKS.name) if name in ("identity", "keys", "wal")
            ] == []
    finally:
        for db in (first, second):
            for table in (TICKS.name, SIGNALS.name):
                db.wait_applied(table)
            db.close()


@pytest.fixture
def opened_at_once(kept: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backups of this process take their Parquet form from the running server: the tests above open copies."""

    @contextmanager
    def opened(_home: Path, _ports: Ports) -> Iterator[QuestDB]:
        with QuestDB(kept.servers.questdb) as db:
            yield db

    monkeypatch.setattr(creating, "questdb_in", opened)


@pytest.mark.parametrize("step", some(STEPS))
def test_a_backup_killed_at_any_step_costs_nothing_and_the_same_command_makes_one(
    kept: Home, place_of: Settings, tmp_path: Path, step: str, opened_at_once: None
) -> None:
    folder = tmp_path / "backups"
    env = kept.env | {"B3_BACKUPS_URL": str(folder), "B3_BACKUPS_DAILY": "1"}
    env |= {"B3_BACKUPS_WEEKLY": "0", "B3_BACKUPS_MONTHLY": "0"}
    if step in STEPS[-2:]:  # there must be one to take away
        create(place_of, kept.servers)
        env["B3_NOW"] = "2025-10-15T15:00:00+00:00"
    killed = Home(kept.settings, kept.servers, env, kept.legacy).b3("backup", "create", die_at=step)
    assert killed.returncode == -9, killed.stderr
    with QuestDB(kept.servers.questdb) as db:
        assert in_progress(db) == (step in STEPS[1:3])
        later = Settings(**{**place_of.model_dump(exclude={"now"}), "now": NOW + timedelta(days=2)})
        made = create(later, kept.servers)
        assert not in_progress(db)
    assert [b.id for b in backups(backups_of(later))[0]] == [made.id]
    assert [path.name for path in folder.iterdir()] == [made.id]
    assert left(kept, folder) == []
    assert made.manifest.tables["b3_adjustments"].rows == 582


def test_the_newest_proven_backup_is_kept_whatever_the_rule_says(
    kept: Home, place_of: Settings, opened_at_once: None
) -> None:
    first = create(place_of, kept.servers)
    note_verified(backups_of(place_of), first, NOW, "ana", first.manifest.forms)
    given = place_of.model_dump(exclude={"now"})
    for days in (1, 2):
        last = create(Settings(**{**given, "now": NOW + timedelta(days=days)}), kept.servers)
    assert [b.id for b in backups(backups_of(place_of))[0]] == [first.id, last.id]


def test_two_homes_in_one_place_keep_their_backups_apart(kept: Home, place_of: Settings, opened_at_once: None) -> None:
    where, first = backups_of(place_of), create(place_of, kept.servers)
    other = replace(first.manifest, id="20251014-160000-0001", at=NOW + timedelta(hours=1), home="another")
    where.write(f"{other.id}/{MANIFEST}", other.data())
    given = place_of.model_dump(exclude={"now"})
    last = create(Settings(**{**given, "now": NOW + timedelta(days=1)}), kept.servers)
    assert [b.id for b in backups(where)[0]] == [other.id, last.id]
    env = kept.env | {"B3_BACKUPS_URL": where.url}
    listed = json.loads(Home(kept.settings, kept.servers, env, kept.legacy).b3("backup", "list", "--json").stdout)
    assert [item["home"] for item in listed["items"]] == ["another", last.manifest.home]


def test_loads_go_on_while_the_archive_is_packed_and_its_notes_are_of_the_moment(
    kept: Home, place_of: Settings, tmp_path: Path, opened_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, content = archive_of(kept.folder), creating.archive_content
    archive.append("meanwhile", b"{1}", name="a.json", at=NOW)
    note_loaded(archive, "meanwhile", 1)

    def loaded_meanwhile(folder: Path) -> list[Path]:
        with QuestDB(kept.servers.questdb) as db, holding(db, kept.folder, TICKS, 0):
            archive.append("meanwhile", b"{2}", name="a.json", at=NOW)
            note_loaded(archive, "meanwhile", 2)
        return content(folder)

    monkeypatch.setattr(creating, "archive_content", loaded_meanwhile)
    try:
        made = create(place_of, kept.servers)
    finally:
        shutil.rmtree(archive.place("meanwhile"))
    unpack(tmp_path / "backups" / made.id / "archive.tar.zst", tmp_path / "restored")
    restored = archive_of(tmp_path / "restored")
    assert (loaded_upto(restored, "meanwhile"), restored.last("meanwhile")) == (1, 2)
    assert [restored.read(e) for e in restored.after("meanwhile", 0)] == [b"{1}", b"{2}"]


def test_a_folder_that_was_packed_otherwise_than_the_manifest_says_is_not_proven(
    kept: Home, place_of: Settings, opened_at_once: None
) -> None:
    where, made = backups_of(place_of), create(place_of, kept.servers)
    assert made.manifest.packed.keys() == {name for name in made.manifest.files if name.endswith(".tar.zst")}
    whole = made.manifest.packed["archive.tar.zst"]
    packed = {**made.manifest.packed, "archive.tar.zst": Content(whole.files + 1, whole.bytes)}
    del packed["quarantine.tar.zst"]
    where.write(f"{made.id}/{MANIFEST}", replace(made.manifest, packed=packed).data())
    problems = verify(place_of, made.id, ["parquet"]).problems
    assert len(problems) == 2
    assert f"archive.tar.zst has {whole.files} files" in problems[0]
    assert "does not say what quarantine.tar.zst holds" in problems[1]


def test_a_full_disk_stops_it_before_anything_is_written(kept: Home, place_of: Settings, tmp_path: Path) -> None:
    full = Settings(**{**place_of.model_dump(exclude={"now"}), "min_free_disk_mb": 1 << 40})
    with pytest.raises(DiskFull, match="B3_BACKUPS_URL"):
        create(full, kept.servers)
    assert not (tmp_path / "backups").exists()


def test_two_at_once_are_refused(kept: Home, place_of: Settings) -> None:
    with alone(place_of), pytest.raises(BackupBusy):
        create(place_of, kept.servers)


def test_a_checkpoint_that_was_left_is_told_and_released(kept: Home) -> None:
    def told() -> list[str]:
        return [check.state for check in examine(kept.settings) if check.name == "checkpoint"]

    with QuestDB(kept.servers.questdb) as db:
        assert (told(), release_checkpoint(kept.settings)) == ([], False)
        db.execute("CHECKPOINT CREATE")
        assert told() == ["warn"]
        assert release_checkpoint(kept.settings)
        assert (told(), in_progress(db)) == ([], False)


def test_a_person_sees_what_there_is_and_a_script_gets_it_as_json(kept: Home, opened_at_once: None) -> None:
    made = kept.create()
    listed = json.loads(kept.b3("backup", "list", "--json").stdout)
    assert listed["ok"]
    [item] = [item for item in listed["items"] if item["name"] == made.id]
    assert (item["rows"], item["action"], item["forms"]) == (
        made.manifest.rows,
        "not verified",
        ["snapshot", "parquet"],
    )
    assert made.id in kept.b3("backup", "list").stdout
    [age] = [check for check in examine(kept.settings) if check.name == "backup"]
    assert age.state == "warn"
    assert made.id in age.found
    assert kept.b3("backup", "verify", "nothing-here").returncode == 2
    manifest = kept.folder / "backups" / made.id / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    assert kept.b3("backup", "list", "--json").returncode == 1
