"""Backups are restored into empty homes and full ones, by processes that die at any step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from b3_pipeline.backup.backups import Backup, BackupDamaged
from b3_pipeline.backup.dumping import counts
from b3_pipeline.backup.journal import FOLDER, HalfRestored, require_restored
from b3_pipeline.backup.restoring import REPLACED, STEPS, RestoreFailed, RestoreRefused, restore
from b3_pipeline.backup.throwaway import postgres_in, questdb_in
from b3_pipeline.backup.verifying import verify
from b3_pipeline.errors import UsageError
from b3_pipeline.home import HomeBusy
from b3_pipeline.loading.archived import archive_of
from b3_pipeline.migration_log import steps
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.services import engines
from b3_pipeline.sessions import ALWAYS
from b3_pipeline.settings import Settings
from b3_pipeline.tables import TABLES
from b3_pipeline.warehouse.exports import stored_checksum
from b3_pipeline_tests.backup.conftest import Home, run, serving
from b3_pipeline_tests.conftest import environment_of, free_port_base, temporary_home
from b3_pipeline_tests.faults import some
from b3_pipeline_tests.quality.conftest import Desk

pytestmark = [pytest.mark.xdist_group("backup"), pytest.mark.slow]


@pytest.fixture(scope="module")
def made(kept: Home) -> Backup:
    return kept.create()


@pytest.fixture
def empty(kept: Home) -> Iterator[Settings]:
    """A home in which nothing is, with the backups of the other one."""
    with temporary_home() as folder:
        backups = kept.folder / "backups"
        yield Settings(home=folder, port_base=free_port_base(), backups_url=str(backups), questdb_memory="256m")


def env_of(settings: Settings) -> dict[str, str]:
    """The environment of a command in a home."""
    env = environment_of(settings.home, settings.port_base)
    return env | {"B3_BACKUPS_URL": str(settings.backups_url), "B3_NOW": "2025-10-14T15:00:00+00:00"}


@contextmanager
def desk(kept: Home, settings: Settings) -> Iterator[Desk]:
    """The restored home with its servers up, and the legacy folder that the history came from."""
    with serving(settings) as servers, QuestDB(servers.questdb) as db:
        yield Desk(db, settings.home, kept.legacy)


@pytest.mark.parametrize("form", ["snapshot", "parquet"])
def test_a_backup_restored_into_an_empty_home_validates_and_goes_on(
    kept: Home, made: Backup, empty: Settings, form: str
) -> None:
    done = restore(empty, made.id, form)
    assert (done.form, done.parts, done.aside) == (form, made.manifest.parts, None)
    assert not (empty.home / FOLDER).exists()
    [log] = steps(empty.home)[-1:]
    assert (log["kind"], log["counts"]) == ("restore", {n: t.rows for n, t in made.manifest.tables.items()})
    with desk(kept, empty) as restored:
        report = restored.validate()
        assert report.ok, [(c.name, f.numbers) for c, f in report.failed("ERROR")]
        restored.load()  # all of it is known: nothing is loaded twice
        count = "select count() from b3_adjustments"
        assert restored.db.scalar(count) == made.manifest.tables["b3_adjustments"].rows


def test_what_is_in_a_home_is_never_written_over_and_with_force_moved_aside(
    kept: Home, made: Backup, empty: Settings
) -> None:
    restore(empty, made.id, "parquet", ["settings", "archive"])
    (empty.home / "settings.toml").write_text("alert_group_s = 9\n", "utf-8")
    with pytest.raises(RestoreRefused, match=r"settings, archive.*--force"):
        restore(empty, made.id, "parquet", ["settings", "archive"])
    assert (empty.home / "settings.toml").read_text("utf-8") == "alert_group_s = 9\n"
    done = restore(empty, made.id, "parquet", ["settings", "archive"], force=True)
    assert done.aside is not None
    assert done.aside.parent == empty.home / REPLACED
    assert (done.aside / "archive").is_dir()
    assert archive_of(empty.home).last("yahoo_dxy") == 1
    assert (done.aside / "settings.toml").read_text("utf-8") == "alert_group_s = 9\n"
    text = (empty.home / "settings.toml").read_text("utf-8")
    assert "alert_group_s = 7" in text
    assert "very-secret" not in text
    [log] = [step for step in steps(empty.home) if step["file"] == done.log.name]
    assert str(done.aside) in log["way_back"]


def test_a_home_whose_servers_run_is_not_restored_into(kept: Home, made: Backup) -> None:
    before = sorted(path.name for path in kept.folder.iterdir())
    answer = kept.b3("backup", "restore", made.id, "--force", "--json")
    assert answer.returncode == 1
    assert "manages the servers of this home" in json.loads(answer.stdout)["error"]
    assert sorted(path.name for path in kept.folder.iterdir()) == before
    with pytest.raises(HomeBusy):
        restore(kept.settings, made.id, force=True)


@pytest.mark.parametrize("name", ["questdb.tar.zst", "postgres.dump", "parquet", "manifest.json"])
def test_one_flipped_byte_is_found_before_anything_is_restored(
    kept: Home, made: Backup, empty: Settings, name: str, tmp_path: Path
) -> None:
    folder = kept.folder / "backups" / made.id
    [file] = sorted((folder / "parquet").rglob("*.parquet"))[3:4] if name == "parquet" else [folder / name]
    sound = file.read_bytes()
    middle = len(sound) // 2
    file.write_bytes(sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :])
    form = "parquet" if name == "parquet" else "snapshot"
    try:
        with pytest.raises(BackupDamaged):
            restore(empty, made.id, form)
        if name == "manifest.json":
            with pytest.raises(BackupDamaged):
                verify(kept.settings, made.id)
        else:
            assert any(file.name in p for p in verify(kept.settings, made.id).problems)
    finally:
        file.write_bytes(sound)
    assert not (empty.home / "questdb").exists()
    assert not (empty.home / FOLDER).exists() or not list((empty.home / FOLDER).iterdir())


@pytest.mark.parametrize(
    ("step", "form"),
    some([(step, ("snapshot", "parquet")[number % 2]) for number, step in enumerate(STEPS)]),
)
def test_a_restore_killed_at_any_step_is_finished_by_running_it_again(
    kept: Home, made: Backup, empty: Settings, step: str, form: str
) -> None:
    empty.home.mkdir(mode=0o700)
    (empty.home / "settings.toml").write_text("alert_group_s = 9\n", "utf-8")
    killed = run(env_of(empty), "backup", "restore", made.id, "--form", form, "--force", die_at=step)
    assert killed.returncode == -9, killed.stderr
    if step != STEPS[-1]:
        other = "parquet" if form == "snapshot" else "snapshot"
        with pytest.raises(RestoreRefused, match="was interrupted"):
            restore(empty, made.id, other)
    done = restore(empty, made.id, form)
    assert (done.parts, done.aside) == (made.manifest.parts, next((empty.home / REPLACED).iterdir()))
    aside = {path.name: path.read_text("utf-8") for path in (empty.home / REPLACED).glob("*/*")}
    assert aside == {"settings.toml": "alert_group_s = 9\n"}
    assert "alert_group_s = 7" in (empty.home / "settings.toml").read_text("utf-8")
    assert not (empty.home / FOLDER).exists()
    assert len([s for s in steps(empty.home) if s["kind"] == "restore"]) == 1
    table = TABLES["b3_adjustments"]
    with questdb_in(empty.home, empty.ports) as restored, QuestDB(kept.servers.questdb) as db:
        assert stored_checksum(restored, table, ALWAYS).text() == stored_checksum(db, table, ALWAYS).text()


def test_a_cluster_that_somebody_filled_before_it_was_restored_is_moved_aside_with_force(
    kept: Home, made: Backup, empty: Settings
) -> None:
    killed = run(env_of(empty), "backup", "restore", made.id, "--what", "postgres", die_at=STEPS[3])
    assert killed.returncode == -9, killed.stderr
    with pytest.raises(HalfRestored, match=f"{made.id}.*--what postgres"), engines(empty):
        pass
    with postgres_in(empty.home) as dsn, psycopg.connect(dsn, autocommit=True) as db:
        db.execute("create table filled (note text)")
    with pytest.raises(RestoreFailed, match=r"public\.filled.*--force"):
        restore(empty, made.id, parts=["postgres"])
    done = restore(empty, made.id, parts=["postgres"], force=True)
    assert done.aside is not None
    assert (done.aside / "postgres" / "data").is_dir()
    with postgres_in(empty.home) as dsn:
        assert counts(dsn) == made.manifest.postgres_tables
    require_restored(empty.home)


def test_with_force_an_interrupted_restore_begins_anew(kept: Home, made: Backup, empty: Settings) -> None:
    parts = ["settings", "archive"]
    killed = run(env_of(empty), "backup", "restore", made.id, "--what", ",".join(parts), die_at=STEPS[3])
    assert killed.returncode == -9, killed.stderr
    (empty.home / "settings.toml").write_text("alert_group_s = 9\n", "utf-8")  # what was restored is changed by now
    done = restore(empty, made.id, parts=parts, force=True)
    assert done.aside is not None
    assert (done.aside / "settings.toml").read_text("utf-8") == "alert_group_s = 9\n"
    assert "alert_group_s = 7" in (empty.home / "settings.toml").read_text("utf-8")
    assert not (empty.home / FOLDER).exists()


def test_wrong_wishes_are_named(kept: Home, made: Backup, empty: Settings) -> None:
    with pytest.raises(UsageError, match="no spool"):
        restore(empty, made.id, parts=["spool"])
    with pytest.raises(UsageError, match="no backup 20200101"):
        restore(empty, "20200101-000000-0000")
    with pytest.raises(UsageError, match="no id"):
        restore(empty, "../home")
