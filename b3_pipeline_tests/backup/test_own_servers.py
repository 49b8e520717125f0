"""With servers of one's own, and a place elsewhere: the Parquet form goes to an S3 bucket, and into empty servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from b3_pipeline.backup.backups import backups
from b3_pipeline.backup.creating import create
from b3_pipeline.backup.restoring import STEPS, RestoreRefused, restore
from b3_pipeline.errors import UsageError
from b3_pipeline.places import backups_of
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.services import known_engines
from b3_pipeline.settings import Settings
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.backup.conftest import run

TICKS = TABLES["b3_dxy_ticks"]
BUCKET = "desk-backups"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a place in an empty bucket of a local S3."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir(BUCKET)
        yield f"s3://{BUCKET}/home"
    finally:
        server.stop()


@pytest.fixture
def empty_database(postgres: str) -> str:
    """The DSN of a database without tables."""
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("drop database if exists restored")
        db.execute("create database restored")
    return postgres.replace("/b3?", "/restored?")


def emptied(db: QuestDB) -> None:
    db.execute("TRUNCATE TABLE b3_dxy_ticks")
    db.wait_applied(TICKS.name)


def stored(db: QuestDB) -> list[tuple[object, ...]]:
    return db.query("select ts, bucket, value, status, load_id from b3_dxy_ticks order by ts")


def test_a_backup_in_a_bucket_fills_empty_servers_and_no_others(
    home: Path,
    bare_home: Path,
    db: QuestDB,
    postgres: str,
    bucket: str,
    empty_database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("B3_HOME", str(bare_home))
    monkeypatch.setenv("B3_BACKUPS_URL", bucket)
    first = datetime(2025, 9, 30, 23)
    rows = [
        {"ts": first + timedelta(hours=n), "bucket": "dxy_09h00", "value": n / 7, "feed": "legacy_csv", "load_id": n}
        for n in range(90)
    ]
    with psycopg.connect(postgres, autocommit=True) as relational:
        relational.execute("create table if not exists backed_up (note text)")
    db.send(TICKS.name, pa.Table.from_pylist(rows, TICKS.arrow_schema()))
    db.wait_applied(TICKS.name)
    before = stored(db)

    settings = Settings()
    made = create(settings, known_engines(settings))
    assert made.manifest.forms == ("parquet",)
    assert "one's own" in made.manifest.remarks[0]
    assert [b.id for b in backups(backups_of(settings))[0]] == [made.id]
    with pytest.raises(UsageError, match="parquet only"):
        restore(settings, made.id, "snapshot")
    with pytest.raises(RestoreRefused, match="b3_dxy_ticks already"):
        restore(settings, made.id, parts=["questdb"], force=True)
    with pytest.raises(RestoreRefused, match="one's own for postgres"):
        restore(settings, made.id, parts=["postgres"])
    assert stored(db) == before

    emptied(db)
    monkeypatch.setenv("B3_POSTGRES_DSN", empty_database)
    # what a restore that died here has sent is its own: the next one goes on
    killed = run(dict(os.environ), "backup", "restore", made.id, die_at=STEPS[5])
    assert killed.returncode == -9, killed.stderr
    assert restore(Settings(), made.id).parts == made.manifest.parts
    assert stored(db) == before
    with psycopg.connect(postgres, autocommit=True) as relational:
        relational.execute("drop table backed_up")
