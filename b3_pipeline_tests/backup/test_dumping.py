"""PostgreSQL's part of a backup, with the embedded server and with an older one."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from b3_pipeline.backup import dumping
from b3_pipeline.backup.dumping import DumpFailed, counts, dump, programs_of, restore, size
from b3_pipeline.postgres.server import BINARIES, VERSION
from b3_pipeline_tests.conftest import temporary_home

UNKNOWN = "SET transaction_timeout = 0;"


def made(dsn: str, name: str) -> str:
    """The DSN of a new, empty database of the same server."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(sql.SQL("drop database if exists {}").format(sql.Identifier(name)))
        db.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return dsn.replace("/b3?", f"/{name}?")


@pytest.fixture
def older() -> Iterator[str]:
    """The DSN of an older server, which this machine has from Debian."""
    found = sorted(Path("/usr/lib/postgresql").glob("1[4567]/bin/initdb"))
    if not found:
        reason = "no older PostgreSQL is here: apt-get install postgresql"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    binaries = found[-1].parent
    who = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    user = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []} if who else {}
    with temporary_home() as home:
        home.mkdir()
        home.parent.chmod(0o755)  # the server is another user, under root
        if who:
            os.chown(home, who.pw_uid, who.pw_gid)

        def ran(program: str, *arguments: str) -> None:
            command, env = [binaries / program, "-D", home / "data", *arguments], {"PATH": os.defpath, "LC_ALL": "C"}
            subprocess.run(command, env=env, cwd=home, check=True, capture_output=True, **user)

        ran("initdb", "-A", "trust", "-U", "b3", "--encoding=utf8", "--no-locale")
        ran("pg_ctl", "-w", "-l", str(home / "log"), "-o", f"-k {home} -c listen_addresses=", "start")
        try:
            dsn = f"postgresql://b3:none@/b3?host={quote(str(home), safe='')}&keepalives=1"
            with psycopg.connect(dsn.replace("/b3?", "/postgres?"), autocommit=True) as db:
                db.execute("create database b3")
            yield dsn
        finally:
            ran("pg_ctl", "-w", "-m", "fast", "stop")


def fill(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("create schema b3")
        db.execute("create table b3.notes (id int primary key, text text)")
        db.execute("insert into b3.notes values (1, %s), (2, 'ação')", (UNKNOWN,))
        db.execute("create table b3.parts (at date) partition by range (at)")
        db.execute("create table b3.parts_2025 partition of b3.parts for values from ('2025-01-01') to ('2026-01-01')")
        db.execute("insert into b3.parts values ('2025-10-14')")


def prove(source: str, target: str, file: Path) -> None:
    fill(source)
    rows, version = dump(source, file)
    assert rows == counts(source) == {"b3.notes": 2, "b3.parts_2025": 1}
    assert int(version.split(".")[0]) >= 14
    assert size(source) > 1_000_000
    assert counts(target) == {}
    restore(target, file)
    assert counts(target) == rows
    with psycopg.connect(target) as db:
        assert db.execute("select text from b3.notes order by id").fetchall() == [(UNKNOWN,), ("ação",)]
    assert list(file.parent.iterdir()) == [file]


def test_a_database_comes_back_as_it_was(postgres: str, tmp_path: Path) -> None:
    prove(made(postgres, "dumped"), made(postgres, "restored"), tmp_path / "postgres.dump")


def test_a_database_of_an_older_server_comes_back_as_it_was(older: str, tmp_path: Path) -> None:
    prove(made(older, "dumped"), made(older, "restored"), tmp_path / "postgres.dump")


def test_a_restore_that_goes_wrong_leaves_nothing(postgres: str, tmp_path: Path) -> None:
    source, target = made(postgres, "dumped"), made(postgres, "restored")
    fill(source)
    dump(source, tmp_path / "postgres.dump")
    with psycopg.connect(target, autocommit=True) as db:
        db.execute("create schema b3")
        db.execute("create table b3.parts_2025 ()")
    with pytest.raises(DumpFailed, match='relation "parts_2025" already exists'):
        restore(target, tmp_path / "postgres.dump")
    assert counts(target) == {"b3.parts_2025": 0}


def test_a_schema_that_is_there_stays_as_it_is(postgres: str, tmp_path: Path) -> None:
    source, target = made(postgres, "dumped"), made(postgres, "restored")
    fill(source)
    rows, _ = dump(source, tmp_path / "postgres.dump")
    with psycopg.connect(target, autocommit=True) as db:
        db.execute("create schema b3")
        db.execute("comment on schema b3 is 'set up'")
    restore(target, tmp_path / "postgres.dump")
    assert counts(target) == rows
    with psycopg.connect(target) as db:
        assert db.execute("select obj_description('b3'::regnamespace)").fetchone() == ("set up",)


def test_for_a_server_over_tls_programs_are_wanted_that_can_speak_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert programs_of("postgresql://b3@/b3?host=%2Frun%2Fpg") == (BINARIES, VERSION)
    by_tls = "postgresql://b3@db.desk/b3?sslmode=verify-full"
    folders = {version: tmp_path / str(version) / "bin" for version in (14, VERSION, VERSION + 1)}
    for version, folder in folders.items():
        folder.mkdir(parents=True)
        (folder / "pg_dump").write_text(f"#!/bin/sh\necho 'pg_dump (PostgreSQL) {version}.4 (Debian)'\n")
        (folder / "pg_dump").chmod(0o755)
    monkeypatch.setattr(dumping, "_DEBIANS", tmp_path)
    monkeypatch.setenv("PATH", str(folders[14]))
    assert programs_of(by_tls) == (folders[VERSION], VERSION)
    monkeypatch.setattr(dumping, "_DEBIANS", tmp_path / "nowhere")
    assert programs_of(by_tls) == (folders[14], 14)
    monkeypatch.setenv("PATH", str(folders[VERSION + 1]))
    with pytest.raises(DumpFailed, match="Debian: postgresql-client"):
        programs_of(by_tls)


def test_no_password_is_in_a_command_line_or_an_error(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, password = [], conninfo_to_dict(postgres)["password"]
    real = subprocess.run

    def run(command: list[str], **more: object) -> subprocess.CompletedProcess[str]:
        seen.append(" ".join(command))
        return real(command, **more)  # pyright: ignore[reportArgumentType, reportCallIssue]

    monkeypatch.setattr(dumping.subprocess, "run", run)
    dump(postgres, tmp_path / "postgres.dump")
    with pytest.raises(DumpFailed) as failed:
        dump(made(postgres, "dumped"), tmp_path / "nowhere" / "postgres.dump")
    assert len(seen) == 2
    assert not any(str(password) in text for text in [*seen, str(failed.value)])


def test_a_server_newer_than_our_programs_is_refused_with_a_way_out(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dumping, "VERSION", 17)
    for ask in (lambda: dump(postgres, tmp_path / "postgres.dump"), lambda: size(postgres)):
        with pytest.raises(DumpFailed, match="The server is PostgreSQL 18"):
            ask()
    assert list(tmp_path.iterdir()) == []
