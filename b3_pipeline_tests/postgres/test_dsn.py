"""DSNs with a password in the wrong place: every command says so, and none shows a piece of it."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from b3_pipeline.cli import app
from b3_pipeline.dagster_server import storage_url
from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.running import home_instance
from b3_pipeline.postgres.dsn import ENCRYPTED, BadDsn, checked, reason
from b3_pipeline.postgres.examining import examined
from b3_pipeline.postgres.roles import ROLES, setup
from b3_pipeline.postgres.vault import open_vault
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.services import Engines, engines
from b3_pipeline.settings import Settings
from b3_pipeline_tests.conftest import REPO

WRONG = [
    "b3:topsecret@db/x",
    "postgresql://b3:topsecret%ZZw@127.0.0.1/x",
    "postgresql://b3:p@topsecret@127.0.0.1/x",
]
MORE = [
    "postgresql://b3:topsecret/w@127.0.0.1/x",
    "postgresql://b3:12/topsecret@127.0.0.1/x",
    "postgresql://b3:p@b:topsecret@127.0.0.1/x",
    "postgresql://b3:p@[topsecret@127.0.0.1/x",
    "postgresql://b3:p@/topsecret@127.0.0.1/x",
    "postgresql://b3:top secret@127.0.0.1/x",
    "postgresql://b3@127.0.0.1/x?topsecret=1",
    "host=127.0.0.1 password=topsecret",
    "topsecret",
    "",
]


@pytest.mark.parametrize("dsn", [*WRONG, *MORE])
def test_a_dsn_that_is_not_what_was_meant_is_refused_without_a_quotation(dsn: str) -> None:
    with pytest.raises(BadDsn, match="percent-encoded") as failed:
        checked(dsn)
    assert "secret" not in str(failed.value)
    assert failed.value.__cause__ is failed.value.__context__ is None


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://b3:x@/b3?host=%2Frun%2Fa%40b%2Fpg",
        "postgres://b3:p%40ss%2Fw@db.example:5432/x?sslmode=require",
        "postgresql://b3:p#s?s@[::1]:5432/x",
        "postgresql://b3@one:5432,two:5433/x?sslmode=verify-full",
        "postgresql:///x",
    ],
)
def test_a_dsn_that_is_sound_is_left_as_it_is(dsn: str) -> None:
    assert checked(dsn) == dsn


HERE = [
    "postgresql:///x",
    "postgresql://b3:topsecret@/x?host=%2Frun%2Fpg",
    "postgresql://b3:topsecret@localhost/x",
    "postgresql://b3:topsecret@LOCALHOST:5433/x",
    "postgresql://b3:topsecret@127.0.0.1/x",
    "postgresql://b3:topsecret@127.8.9.1/x?sslmode=disable",
    "postgresql://b3:topsecret@[::1]/x",
    "postgresql://b3:topsecret@127.0.0.1:1,localhost:2,[::1]:3/x",
    "postgresql://b3:topsecret@db.example/x?hostaddr=127.0.0.1",
]
ELSEWHERE = [
    "postgresql://b3:topsecret@db.example/x",
    "postgresql://b3:topsecret@192.0.2.1:5432/x",
    "postgresql://b3:topsecret@[2001:db8::1]/x",
    "postgresql://b3:topsecret@/x?host=db.example",
    "postgresql://b3:topsecret@localhost.example/x",
    "postgresql://b3:topsecret@127.0.0.1.example/x",
    "postgresql://b3:topsecret@localhost/x?hostaddr=192.0.2.1",
    "postgresql://b3:topsecret@localhost:5432,db.example:5432/x",
    "postgresql://b3:topsecret@db.example,localhost/x?hostaddr=127.0.0.1,192.0.2.1",
    "postgresql://b3:topsecret@/x?host=%2Frun%2Fpg,db.example",
    "postgresql://b3:topsecret@/x?service=desk",
    "postgresql://b3:topsecret@localhost/x?service=desk",
]


@pytest.mark.parametrize("dsn", [WRONG[0], ELSEWHERE[0]])
def test_what_is_wrong_is_said_of_the_setting_that_has_it(tmp_path: Path, dsn: str) -> None:
    sound = SecretStr("postgresql://b3@localhost/x")
    for role in ROLES:
        settings = Settings(home=tmp_path, postgres_dsn=sound).model_copy(update={role.setting: SecretStr(dsn)})
        with pytest.raises(BadDsn, match=f"^{role.variable} "), engines(settings):
            pass
        with pytest.raises(BadDsn, match=f"^{role.variable} "):
            list(examined(role, dsn))
    with pytest.raises(BadDsn, match=r"^B3_POSTGRES_ADMIN_DSN "):
        setup(dsn, "x", {})


@pytest.mark.parametrize("dsn", HERE)
def test_a_server_of_this_machine_needs_no_tls(dsn: str) -> None:
    assert checked(dsn) == dsn


@pytest.mark.parametrize("dsn", ELSEWHERE)
def test_a_server_elsewhere_does_and_the_error_says_what_to_write(dsn: str) -> None:
    with pytest.raises(BadDsn, match=r"sslmode=verify-full&sslrootcert=FILE") as failed:
        checked(dsn)
    assert "secret" not in str(failed.value)
    assert failed.value.__cause__ is failed.value.__context__ is None
    joined = "&" if "?" in dsn else "?"
    for mode in ENCRYPTED:
        assert checked(f"{dsn}{joined}sslmode={mode}")
    for mode in ("disable", "allow", "prefer", ""):
        with pytest.raises(BadDsn, match="must ask for TLS"):
            checked(f"{dsn}{joined}sslmode={mode}")


def test_what_a_dsn_leaves_to_the_environment_is_looked_for_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, dsn in (("PGHOST", "postgresql:///x"), ("PGHOSTADDR", "postgresql://localhost/x")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "192.0.2.1")
            patch.setenv("PGSSLMODE", "require")  # not every program that we start is given it
            with pytest.raises(BadDsn, match="must ask for TLS"):
                checked(dsn)
        assert checked(dsn) == dsn


def test_dagsters_storage_is_given_no_dsn_that_was_not_checked() -> None:
    for dsn in (*WRONG, *ELSEWHERE):
        with pytest.raises(BadDsn):
            storage_url(dsn)


def test_every_module_that_opens_postgresql_has_the_dsn_checked() -> None:
    opens = re.compile(r"psycopg\.connect\(|AsyncConnection\.connect\(|ConnectionPool(\[.*\])?\(|create_engine\(")
    ours = [path for path in (REPO / "b3_pipeline").rglob("*.py") if opens.search(path.read_text(encoding="utf-8"))]
    unchecked = {
        path.relative_to(REPO).as_posix() for path in ours if "checked(" not in path.read_text(encoding="utf-8")
    }
    assert unchecked == {
        "b3_pipeline/api/store.py",  # QuestDB
        "b3_pipeline/questdb/client.py",  # QuestDB
        "b3_pipeline/postgres/server.py",  # the embedded one, whose DSN it makes
    }


def test_of_an_error_that_is_not_the_servers_only_its_name_is_shown(postgres: str) -> None:
    assert reason(psycopg.ProgrammingError('missing "=" after "topsecret"')) == "ProgrammingError"
    with psycopg.connect(postgres) as db, pytest.raises(psycopg.ProgrammingError) as failed:
        db.execute("select nothing")
    assert reason(failed.value) == 'column "nothing" does not exist'


@pytest.mark.parametrize("dsn", WRONG)
@pytest.mark.parametrize(
    ("command", "code"), [("doctor", 1), ("migrate --legacy {}", 1), ("signals import {}", 1), ("signals list", 1)]
)
def test_no_command_shows_a_password_that_is_not_escaped(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsn: str, command: str, code: int
) -> None:
    for name in ("gamma", "telegram_channels"):
        (tmp_path / f"{name}.json").write_text("[]")
    monkeypatch.setenv("B3_POSTGRES_DSN", dsn)
    result = CliRunner().invoke(app, [*command.format(tmp_path).split(), "--json"])
    assert result.exit_code == code, result.output
    assert "percent-encoded" in result.output
    assert "topsecret" not in result.output


@pytest.mark.parametrize("dsn", WRONG)
def test_neither_the_vault_nor_dagster_is_asked_with_such_a_dsn(home: Path, db: QuestDB, dsn: str) -> None:
    for asked in (open_vault(dsn, lambda: []), home_instance(Store(), Engines(db.address, dsn))):
        with pytest.raises(BadDsn), asked:
            pass
