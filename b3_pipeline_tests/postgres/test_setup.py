"""`b3 postgres setup`, and what docs/postgres.md shows, as an administrator does it: against Debian's server with TLS."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from b3_pipeline.doctor import examine
from b3_pipeline.postgres.dsn import parts_of
from b3_pipeline.postgres.roles import ROLES
from b3_pipeline.services import known_engines
from b3_pipeline.settings import Settings
from b3_pipeline_tests.cli.commands import answer, b3
from b3_pipeline_tests.conftest import REPO
from b3_pipeline_tests.postgres.servers import OwnServer, binaries

DOCUMENT = (REPO / "docs" / "postgres.md").read_text(encoding="utf-8")
NAME = "by_command"


@pytest.fixture
def desk(own: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnServer]:
    """The server, its administrator's DSN in the environment, and a home that knows nothing else; as it was, afterwards."""
    for name in [name for name in os.environ if name.startswith("B3_POSTGRES_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("B3_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("B3_POSTGRES_ADMIN_DSN", own.admin)
    try:
        yield own
    finally:
        with psycopg.connect(own.admin, autocommit=True) as db:
            db.execute(f'drop database if exists "{NAME}" with (force)'.encode())
        with own.database(NAME):  # the passwords are the server's, not a database's: other tests know theirs
            pass


def kept(home: Path) -> dict[str, str]:
    """The settings that a set-up has left in a home, read as a shell does."""
    lines = (home / "secrets" / "postgres.env").read_text().splitlines()
    return dict(shlex.split(line)[0].split("=", 1) for line in lines)


def test_it_leaves_three_dsns_that_work_and_that_only_we_can_read(desk: OwnServer, tmp_path: Path) -> None:
    result = answer("postgres", "setup", "--at", desk.place(NAME))
    assert result["database"] == NAME
    assert result["file"] == str(tmp_path / "home" / "secrets" / "postgres.env")
    dsns = kept(tmp_path / "home")
    assert list(dsns) == ["B3_POSTGRES_DSN", "B3_POSTGRES_APP_DSN", "B3_POSTGRES_READER_DSN"]
    for role, dsn in zip(ROLES, dsns.values(), strict=True):
        with psycopg.connect(dsn) as db:
            assert (db.info.user, db.info.dbname, db.pgconn.ssl_in_use) == (role.name, NAME, True)
        assert parts_of(dsn)["password"] not in str(result)
    files = list((tmp_path / "home" / "secrets").iterdir())
    assert len(files) == 4
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert answer("postgres", "setup", "--at", desk.place(NAME))["ok"]
    assert kept(tmp_path / "home") == dsns


def test_the_doctor_looks_at_all_three_and_the_services_take_them(
    desk: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    b3("postgres", "setup", "--at", desk.place(NAME))
    for name, value in kept(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    found = {check.name: check for check in examine(settings) if "ostgre" in check.name or check.name.startswith("b3_")}
    ours = {
        name: check.state for name, check in found.items() if "server" not in name and not name.startswith("setting")
    }
    assert ours == dict.fromkeys(ours, "ok") | {"PostgreSQL": "ok"}
    assert {f"PostgreSQL as {role.name}" for role in ROLES} <= ours.keys()
    assert {found[f"setting {role.setting}"].found.split(" (B3")[0] for role in ROLES} == {"set (not shown)"}
    engines = known_engines(settings)
    assert [parts_of(dsn)["user"] for dsn in (engines.postgres_dsn, engines.app_dsn, engines.reader_dsn)] == [
        role.name for role in ROLES
    ]
    assert not any(parts_of(dsn)["password"] in repr(engines) for dsn in kept(tmp_path / "home").values())


def test_a_password_that_is_given_in_a_dsn_is_taken(
    desk: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for role in ROLES:
        monkeypatch.setenv(f"B3_{role.setting.upper()}", desk.dsn(role, NAME))
    b3("postgres", "setup", "--at", desk.place(NAME))
    assert list(kept(tmp_path / "home").values()) == [desk.dsn(role, NAME) for role in ROLES]
    assert [file.name for file in (tmp_path / "home" / "secrets").iterdir()] == ["postgres.env"]


def test_a_dry_run_prints_sql_and_leaves_no_trace(desk: OwnServer, tmp_path: Path) -> None:
    printed = b3("postgres", "setup", "--at", desk.place(NAME), "--dry-run").stdout
    assert f'create database "{NAME}"' in printed
    assert all(line.endswith(";") for line in printed.splitlines())
    assert not (tmp_path / "home").exists()
    with psycopg.connect(desk.admin) as db:
        assert db.execute("select 1 from pg_database where datname = %s", (NAME,)).fetchone() is None


def test_an_administrators_dsn_in_a_file_is_taken_when_nobody_else_can_read_it(
    desk: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("B3_POSTGRES_ADMIN_DSN")
    file = tmp_path / "admin.dsn"
    file.touch(0o644)
    file.write_text(desk.admin + "\n")
    arguments = ("postgres", "setup", "--admin", file, "--at", desk.place(NAME))
    assert "is open to other users" in b3(*arguments, code=1).output
    file.chmod(0o600)
    b3(*arguments)


@pytest.mark.parametrize(
    ("admin", "at", "code", "told"),
    [
        ("", "", 2, "B3_POSTGRES_ADMIN_DSN"),
        ("postgresql://root:hunter2@db.desk/postgres", "", 1, "B3_POSTGRES_ADMIN_DSN is a DSN"),
        ("postgresql://root:hunter2@127.0.0.1:1/postgres", "", 1, "does not answer the administrator"),
        ("postgresql://root:hunter2@/postgres", "postgresql://db.desk/b3", 1, "--at is a DSN"),
        ("postgresql://root:hunter2@/postgres", "postgresql://@x@localhost/b3", 1, "--at must look like"),
        ("postgresql://root:hunter2@/postgres", "postgresql://root:hunter2@localhost/b3", 2, "neither user"),
        ("postgresql://root:hunter2@/postgres", "postgresql://localhost", 2, "names server and database"),
    ],
)
def test_what_cannot_be_meant_is_refused_without_a_password_in_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, admin: str, at: str, code: int, told: str
) -> None:
    monkeypatch.setenv("B3_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("B3_POSTGRES_DSN", raising=False)
    if admin:
        monkeypatch.setenv("B3_POSTGRES_ADMIN_DSN", admin)
    output = " ".join(b3("postgres", "setup", *(("--at", at) if at else ()), code=code).output.split())
    assert told in output
    assert "hunter2" not in output


def test_dsns_of_roles_are_nothing_without_the_owners(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing without B3_POSTGRES_DSN") as failed:
        Settings(home=tmp_path, postgres_reader_dsn=SecretStr("postgresql://b3_reader:hunter2@/b3"))
    assert "hunter2" not in str(failed.value)


def test_a_dsn_that_is_left_out_is_the_one_of_who_may_do_more(tmp_path: Path) -> None:
    owner, app = "postgresql://b3_owner@/b3", "postgresql://b3_app@/b3"
    for given, expected in ((None, (owner, owner)), (SecretStr(app), (app, app))):
        engines = known_engines(Settings(home=tmp_path, postgres_dsn=SecretStr(owner), postgres_app_dsn=given))
        assert (engines.app_dsn, engines.reader_dsn) == expected


# What the document shows


def block(language: str, word: str) -> str:
    """The fenced block of the document that has a word in it."""
    return next(text for text in re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.M | re.S) if word in text)


def ran(script: str, folder: Path, **variables: str) -> str:
    env = {"PATH": f"{binaries()}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", **variables}
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, text=True).stdout


def test_the_certificates_of_the_document_are_ones_of_its_authority_for_the_servers_name(tmp_path: Path) -> None:
    ran(block("sh", "openssl"), tmp_path)
    verified = ran("openssl verify -CAfile ca.crt -verify_hostname db.desk server.crt", tmp_path)
    assert verified == "server.crt: OK\n"
    with pytest.raises(subprocess.CalledProcessError):
        ran("openssl verify -CAfile ca.crt -verify_hostname db.other server.crt", tmp_path)


def test_the_dump_of_the_document_is_made_by_the_owner(desk: OwnServer, tmp_path: Path) -> None:
    b3("postgres", "setup", "--at", desk.place(NAME))
    listed = ran(block("sh", "pg_dump"), tmp_path, B3_POSTGRES_DSN=kept(tmp_path / "home")["B3_POSTGRES_DSN"])
    assert " SCHEMA - ideas b3_owner" in listed


def test_the_lines_of_pg_hba_in_the_document_let_in_by_tls_only(own: OwnServer) -> None:
    lines = [line.split() for line in block("text", "hostssl").splitlines() if not line.startswith("#")]
    assert [line[0] for line in lines] == ["hostssl", "hostssl"]
    assert {name for line in lines for name in line[2].split(",")} == {role.name for role in ROLES} | {"postgres"}
    with psycopg.connect(
        own.admin, client_encoding="utf8"
    ) as db:  # the server reads the very lines, and finds no fault in them
        assert db.execute("select count(*) from pg_hba_file_rules where error is not null").fetchone() == (0,)
        read = db.execute("select type, database, user_name, auth_method from pg_hba_file_rules").fetchall()
    assert read[: len(lines)] == [(kind, [base], users.split(","), method) for kind, base, users, _, method in lines]


def test_the_settings_of_the_document_are_ones_that_the_server_knows(own: OwnServer) -> None:
    names = re.findall(r"^(\w+) = ", block("ini", "ssl"), re.M)
    with psycopg.connect(own.admin) as db:
        known = db.execute("select count(*) from pg_settings where name = any(%s)", (names,)).fetchone()
    assert known == (len(names),)
    assert "password_encryption" in names
