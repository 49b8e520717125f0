"""A migration of a LowDB folder: the phase that it is for, its backups, its log, and files that change meanwhile."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from b3_pipeline import migration_log
from b3_pipeline.cutover import journal
from b3_pipeline.cutover.journal import CutoverBusy, Task
from b3_pipeline.errors import UsageError
from b3_pipeline.lowdb import loading, migrating
from b3_pipeline.lowdb.files import LOCK
from b3_pipeline.lowdb.migrating import FilesAreNotTheTruth, Migrating
from b3_pipeline.lowdb.model import DOMAIN
from b3_pipeline.lowdb.schema import IDEAS_SCHEMA
from b3_pipeline.postgres.flags import DEFAULTS, PHASE, Current, Entry
from b3_pipeline.postgres.server import BINARIES
from b3_pipeline_tests.faults import some
from b3_pipeline_tests.lowdb.recorded import NOW, asked, documentation, gone, idea, system, write


@pytest.fixture
def dsn(postgres: str) -> str:
    gone(postgres)
    return postgres


def in_phase(phase: str) -> Callable[[], Current]:
    return lambda: Current({**DEFAULTS, (DOMAIN, PHASE.name): Entry(DOMAIN, PHASE.name, phase)})


def migration(dsn: str, home: Path, phase: str = "legacy") -> Migrating:
    return Migrating(dsn, home, lambda: NOW, in_phase(phase), "run-1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "in", [idea(1), idea(2, category="?")])
    write(tmp_path / "in", documentation(systems=[system(1)]), "db.json")
    return tmp_path / "in"


def test_a_migration_leaves_a_backup_that_checks_and_a_log_that_says_it_all(
    dsn: str, tmp_path: Path, folder: Path
) -> None:
    done = migration(dsn, tmp_path / "home").run(folder)
    assert done.ok
    assert done.folder is not None
    assert sorted(done.checksums) == ["after.dump", "before.dump", "db.json", "ideas.json"]
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=done.folder, check=False, capture_output=True)
    assert checked.returncode == 0
    listed = subprocess.run(
        [BINARIES / "pg_restore", "--list", done.folder / "after.dump"], check=True, capture_output=True, text=True
    )
    assert "TABLE DATA ideas idea_history" in listed.stdout
    step = migration_log.steps(tmp_path / "home")[-1]
    assert (step["kind"], step["outcome"], step["release"]) == ("lowdb", "done", "0.1.0")
    assert step["counts"]["ideas"] == {"candidates": 2, "loaded": 1, "rejected": 1, "duplicate": 0}
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("ideas.json", "db.json")}
    saved = {f"lowdb/{done.folder.name}/{name}": sha256 for name, sha256 in done.checksums.items()}
    assert step["checksums"] == {**saved, **hashes}
    assert {name: done.checksums[name] for name in hashes} == hashes
    details = step["details"]
    assert (details["rejected"], details["schema"], details["run"]) == ({"ideas": 1}, IDEAS_SCHEMA.head(), "run-1")
    assert details["changes"]["ideas"] == {"inserted": 1, "updated": 0, "removed": 0}
    assert details["postgres"]
    assert "before.dump" in step["way_back"]
    assert step["who"]


def test_a_second_migration_makes_no_backup_and_changes_nothing(dsn: str, tmp_path: Path, folder: Path) -> None:
    migration(dsn, tmp_path).run(folder)
    history = asked(dsn, "select count(*) from ideas.idea_history")
    again = migration(dsn, tmp_path).run(folder)
    assert [outcome.outcome for outcome in again.outcomes] == ["unchanged", "unchanged"]
    assert again.folder is None
    assert asked(dsn, "select count(*) from ideas.idea_history") == history
    assert len(list((tmp_path / "lowdb").iterdir())) == 1
    ways = {step["way_back"] for step in migration_log.steps(tmp_path)}
    assert any("Nothing has changed" in way for way in ways)


def test_a_folder_that_is_read_again_puts_right_what_somebody_changed(dsn: str, tmp_path: Path, folder: Path) -> None:
    migration(dsn, tmp_path).run(folder)
    asked(dsn, "update ideas.ideas set title = 'x' returning 1")
    with pytest.raises(FilesAreNotTheTruth, match="--again"):
        migration(dsn, tmp_path).run(folder)
    assert asked(dsn, "select title from ideas.ideas") == [("x",)]
    replace(migration(dsn, tmp_path), again=True).run(folder)
    assert asked(dsn, "select title from ideas.ideas") == [("Painel 1",)]


def test_the_dump_from_before_brings_the_tables_back(dsn: str, tmp_path: Path, folder: Path) -> None:
    migration(dsn, tmp_path).run(folder)
    write(folder, [idea(5)])
    done = migration(dsn, tmp_path).run(folder)
    assert asked(dsn, "select id from ideas.ideas") == [(5,)]
    assert done.folder is not None
    gone(dsn)
    command = [BINARIES / "pg_restore", "--no-owner", f"--dbname={dsn}", done.folder / "before.dump"]
    restored = subprocess.run(command, check=False, capture_output=True, text=True)
    assert restored.stderr == ""
    assert asked(dsn, "select id from ideas.ideas") == [(1,)]


def test_tables_that_follow_files_become_what_the_files_say_though_somebody_has_written_them(
    dsn: str, tmp_path: Path, folder: Path
) -> None:
    own = replace(migration(dsn, tmp_path), own=folder)
    own.run(folder)
    assert [outcome.outcome for outcome in own.run(folder).outcomes] == ["unchanged", "unchanged"]
    asked(dsn, "delete from ideas.ideas returning 1")
    assert [outcome.outcome for outcome in own.run(folder).outcomes] == ["loaded", "unchanged"]
    assert asked(dsn, "select title from ideas.ideas") == [("Painel 1",)]


def test_a_home_with_files_of_its_own_loads_no_other(dsn: str, tmp_path: Path, folder: Path) -> None:
    write(tmp_path / "other", [idea(5)])
    with pytest.raises(UsageError, match="another folder"):
        replace(migration(dsn, tmp_path), own=folder).run(tmp_path / "other")


def test_nothing_is_loaded_while_nobody_knows_the_phase(dsn: str, tmp_path: Path, folder: Path) -> None:
    away = replace(migration(dsn, tmp_path), flags=lambda: Current(DEFAULTS, stale=True))
    with pytest.raises(FilesAreNotTheTruth, match="is PostgreSQL up"):
        away.run(folder)
    with journal.alone(tmp_path, DOMAIN) as file:
        with pytest.raises(CutoverBusy):
            migration(dsn, tmp_path).run(folder)
        journal.keep(file, Task("advance", "shadow", "active", NOW.isoformat(), "ops", "a test"))
    with pytest.raises(FilesAreNotTheTruth, match="b3 cutover advance"):
        migration(dsn, tmp_path).run(folder)


@pytest.mark.parametrize("phase", ["active", "frozen"])
def test_files_are_not_loaded_over_tables_that_are_the_truth(
    dsn: str, tmp_path: Path, folder: Path, phase: str
) -> None:
    with pytest.raises(FilesAreNotTheTruth, match=phase):
        migration(dsn, tmp_path, phase).run(folder)
    assert asked(dsn, "select to_regclass('ideas.loads')") == [(None,)]


@pytest.mark.parametrize(("phase", "held"), [("legacy", False), ("shadow", True)])
def test_while_the_tables_follow_the_files_nobody_writes_files_that_are_loaded(
    dsn: str, tmp_path: Path, folder: Path, phase: str, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []

    def look(_step: str) -> None:
        try:
            with FileLock(folder / LOCK, timeout=0):
                found.append(False)
        except Timeout:
            found.append(True)

    monkeypatch.setattr(loading, "reached", look)
    assert migration(dsn, tmp_path, phase).run(folder).ok
    assert set(found) == {held}


def test_a_file_that_changes_while_it_is_read_is_read_once_more(
    dsn: str, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    surveyed = migrating.files_of
    times = 0

    def meanwhile(given: Path, *only: str) -> Any:
        nonlocal times
        found = surveyed(given, *only)
        times += 1
        if times < 3:
            write(given, [idea(times), idea(9)])
        return found

    monkeypatch.setattr(migrating, "files_of", meanwhile)
    assert migration(dsn, tmp_path).run(folder).ok
    assert asked(dsn, "select id from ideas.ideas order by id") == [(2,), (9,)]


_MIGRATE = """
import sys
from pathlib import Path
from b3_pipeline_tests.lowdb.test_migrating import migration
dsn, home, folder = sys.argv[1:]
migration(dsn, Path(home)).run(Path(folder))
"""


@pytest.mark.parametrize("step", some(migrating.STEPS))
def test_a_migration_that_was_killed_is_finished_by_the_next_and_leaves_one_whole_backup(
    dsn: str, tmp_path: Path, folder: Path, step: str
) -> None:
    command = [sys.executable, "-c", _MIGRATE, dsn, str(tmp_path / "home"), str(folder)]
    killed = subprocess.run(command, env={**os.environ, "B3_DIE_AT": step}, check=False)
    assert killed.returncode == -9
    done = migration(dsn, tmp_path / "home").run(folder)
    assert done.ok
    assert asked(dsn, "select count(*) from ideas.ideas") == [(1,)]
    assert asked(dsn, "select count(*) from ideas.loads") == [(5,)]
    whole = list((tmp_path / "home" / "lowdb").glob(f"*/{migrating.CHECKSUMS}"))
    assert len(whole) == 1
    logged = [
        each for each in migration_log.steps(tmp_path / "home") if each["kind"] == "lowdb" and each["details"]["backup"]
    ]
    assert [(each["outcome"], each["details"]["changes"]["ideas"]["inserted"]) for each in logged] == [("done", 1)]


def test_a_bad_file_does_not_stop_the_other(dsn: str, tmp_path: Path, folder: Path) -> None:
    (folder / "ideas.json").write_text("{")
    done = migration(dsn, tmp_path).run(folder)
    assert {outcome.file: outcome.outcome for outcome in done.outcomes} == {
        "ideas.json": "rejected",
        "db.json": "loaded",
    }
    assert not done.ok
    assert migration_log.steps(tmp_path)[-1]["outcome"] == "failed"
    (folder / "ideas.json").unlink()
    done = migration(dsn, tmp_path).run(folder)
    assert [outcome.outcome for outcome in done.outcomes] == ["missing", "unchanged"]
    assert done.ok
